"""Time of the step that no stage explains."""
