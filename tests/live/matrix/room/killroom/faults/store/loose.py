"""A fault that stays until somebody withdraws it."""

from killroom import _store

injector = _store.made("loose", "none")
