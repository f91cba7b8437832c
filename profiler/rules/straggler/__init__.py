"""Ranks wait for one that comes late: not the network holds the job up, but what that rank does."""
