"""Ranks exchange gradients, parameters or activations, and the step waits for it."""
