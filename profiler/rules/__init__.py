"""The catalogue: what to look for in a run's facts, why it is slow, and what to change."""
