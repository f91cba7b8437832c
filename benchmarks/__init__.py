"""What the tool costs and how true it is: `python -m benchmarks`, or one of them by name."""
