"""A fault that the store drops by itself when nobody renews it."""

from killroom import _store

injector = _store.made("leased", "target")
