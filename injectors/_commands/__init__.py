"""Verbs of `sim` that this room brings, one module a verb."""
