"""Shadow requests (`X-MBP-Shadow: 1`): computed, answered, and nothing kept. Where that is not possible: refused."""

from __future__ import annotations

import re

from starlette.types import ASGIApp, Receive, Scope, Send

from mbp._asgi import refuse

_REHEARSED = re.compile(r"/v1/markets/[^/]+/(quote|swaps|resolution/finish)")


class ShadowGuard:
    """Middleware that lets a shadow only where it leaves nothing behind."""

    def __init__(self, app: ASGIApp) -> None:
        """Wrap ``app``."""
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or refuse it."""
        if scope["type"] == "http" and any(name == b"x-mbp-shadow" for name, _ in scope["headers"]):
            harmless = scope["method"] in ("GET", "HEAD") or (
                scope["method"] == "POST" and _REHEARSED.fullmatch(scope["path"])
            )
            if not harmless:
                await refuse(scope, receive, send, 400, "no_shadow", "this cannot be done without leaving something")
                return
        await self.app(scope, receive, send)
