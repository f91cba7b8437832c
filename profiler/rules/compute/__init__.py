"""The model's own arithmetic."""
