"""A run's steps for other programs to show."""
