"""The report of a job of several ranks."""
