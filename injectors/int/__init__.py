"""Faults of integrations: what the platform answers to those who consume it."""
