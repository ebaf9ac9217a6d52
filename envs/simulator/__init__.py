"""A shop whose shoppers answer back: fitted behaviour, named assumptions, environments and A/B tests."""
