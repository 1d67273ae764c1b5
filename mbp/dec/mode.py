"""The marks that the release controller puts on a request: the service mode, and whether it is only a shadow."""

from __future__ import annotations

from fastapi import Request
from starlette.types import Scope

from mbp._asgi import ApiError

MODE = "X-MBP-Mode"
_MODE, _SHADOW = MODE.lower().encode(), b"x-mbp-shadow"


def mode_of(scope: Scope) -> str:
    """Return `degraded` when the request is so marked, else `normal`."""
    return "degraded" if (_MODE, b"degraded") in scope["headers"] else "normal"


def shadowed(scope: Scope) -> bool:
    """Tell whether the request is the shadow of another one: computed, answered, and nothing left behind."""
    return (_SHADOW, b"1") in scope["headers"]


def is_degraded(request: Request) -> bool:
    """Tell whether the service is degraded for this request."""
    return mode_of(request.scope) == "degraded"


def is_shadow(request: Request) -> bool:
    """Tell whether this request is a shadow."""
    return shadowed(request.scope)


def refuse_degraded(request: Request) -> None:
    """Raise :class:`ApiError` (409, no fault of the service: it burns no error budget) while it is degraded."""
    if is_degraded(request):
        raise ApiError(
            409,
            "service_degraded",
            "the service is degraded: swaps and quotes go on, new markets and liquidity changes wait",
            {"Retry-After": "30"},
        )
