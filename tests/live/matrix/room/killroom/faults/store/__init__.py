"""Faults of the fault store."""
