"""Faults of containers, by the engine that runs them."""
