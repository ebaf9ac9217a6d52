"""The tag task: name what a household buys next."""
