"""Where every millisecond and gigabyte of a PyTorch training goes."""

__version__ = "0.1.0"
