"""What a run's result looks like: `summary.json`, one HTML file, one screenful in the terminal."""
