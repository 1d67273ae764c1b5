"""Faults of the toy room."""
