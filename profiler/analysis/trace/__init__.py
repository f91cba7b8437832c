"""From a recorded trace to facts."""
