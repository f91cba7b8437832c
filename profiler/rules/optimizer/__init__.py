"""The update of the parameters."""
