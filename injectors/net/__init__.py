"""Faults of the network between two parts of the target: links that run through a proxy."""
