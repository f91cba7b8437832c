"""The run around its steps."""
