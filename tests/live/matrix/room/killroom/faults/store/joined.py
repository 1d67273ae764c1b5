"""A leased fault that brings company: a process that is there before it, and on until all is well again."""

from killroom import _store

injector = _store.made("leased", "target", company="killroom._company")
