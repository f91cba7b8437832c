"""Places where the host waits for the device and need not."""
