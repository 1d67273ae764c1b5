"""Verbs of the expectations' room: the first platform file, and a recorder of webhooks."""
