"""Faults of processes of this machine: stopped, killed."""
