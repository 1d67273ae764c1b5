"""The kill matrix: whole runs against a small fault store, killed at every step in every way, and what stays."""
