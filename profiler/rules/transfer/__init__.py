"""Copies between the host and the device."""
