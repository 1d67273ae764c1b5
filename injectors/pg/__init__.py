"""Faults at a PostgreSQL server: locks, slots, walsenders, replay."""
