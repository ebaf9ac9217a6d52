"""What a policy answers to the test episodes, and the tables of it."""
