"""A dead link: its connections are closed and new ones are refused."""

from __future__ import annotations

from injectors._toxiproxy import OnLink, of


class Params(OnLink):
    """Nothing but the link: it is cut for all."""


injector = of("a link is cut: its connections end, and new ones are refused", Params, None, ("link",))
