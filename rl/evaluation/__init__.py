"""Answers of a policy to the test episodes, and tables of them."""
