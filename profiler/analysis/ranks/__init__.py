"""The ranks of a job: each reduced to small facts, then laid side by side."""
