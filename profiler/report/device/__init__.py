"""The device's side of a run's report."""
