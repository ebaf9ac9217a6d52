"""The explanations task: say why an item is recommended to a household."""
