"""Readers of traces that others recorded: Kineto chrome traces, as `torch.profiler` writes them."""
