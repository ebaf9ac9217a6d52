"""Language models in this process that are asked in words, and any one out of a configuration."""
