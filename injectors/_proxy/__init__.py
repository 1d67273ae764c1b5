"""A fault-injecting TCP proxy that speaks the HTTP API of Toxiproxy 2.12, in a process of its own (``sim proxy``).

`serve` starts it; `api` is its HTTP side, `registry` all proxies, `proxy` one listener with its toxics, `link` one
connection, `direction` the one deadline queue that each half of a connection has, `stages` what each toxic does to it.
Everything runs in one event loop; nothing in it ever waits for a peer. Decisions: ADR-019; use: docs/proxy.md.
"""
