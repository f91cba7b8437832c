"""What fills the memory of the process or of the device."""
