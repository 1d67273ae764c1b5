"""Faults of the platform as its performance monitoring sees them: load."""
