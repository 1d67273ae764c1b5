"""Rooms that a stranger brings: what the CLI scripts exercise, so that no golden names our own."""
