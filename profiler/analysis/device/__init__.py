"""What a device did, from a recording of its own clock."""
