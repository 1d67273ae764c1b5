"""Toxics as they are declared: names, kinds, attributes, and how one is read from a request."""

from __future__ import annotations

from typing import Any

from injectors._proxy.body import ApiError, Object, as_object, bad, number, text, whole
from injectors._proxy.clock import Handle

#: Kind → its attributes, all whole numbers that are not negative, 0 where left out. ms, but: rate KB/s (KB = 1000 B),
#: sizes and bytes in bytes, the slicer's delay in µs. `hold_connect` is ours; `noop` does nothing, as in Toxiproxy.
KINDS: dict[str, tuple[str, ...]] = {
    "latency": ("latency", "jitter"),
    "bandwidth": ("rate",),
    "slow_close": ("delay",),
    "timeout": ("timeout",),
    "reset_peer": ("timeout",),
    "slicer": ("average_size", "size_variation", "delay"),
    "limit_data": ("bytes",),
    "noop": (),
    "hold_connect": ("delay",),
}

#: The longest lease, seconds: a day.
LONGEST_LEASE_S = 86400.0


class Toxic:
    """One toxic of one proxy.

    `stream` is as the client wrote it, `upstream` what it means (client → server). `serial` tells toxics that had the
    same name one after the other apart: with it, each has dice of its own. With a lease the toxic goes by itself at
    `expires_at` (the clock's seconds) unless renewed.
    """

    __slots__ = (
        "attributes",
        "expires_at",
        "kind",
        "lease",
        "name",
        "serial",
        "stream",
        "toxicity",
        "ttl_s",
        "upstream",
    )

    def __init__(self, name: str, kind: str, stream: str, toxicity: float, attributes: dict[str, int]) -> None:
        self.name, self.kind, self.stream = name, kind, stream
        self.upstream = stream.lower() == "upstream"
        self.toxicity = toxicity
        self.attributes = attributes
        self.ttl_s: float | None = None
        self.expires_at = 0.0
        self.lease: Handle | None = None
        self.serial = 0

    def as_json(self, now: float) -> Object:
        """Return the toxic as the API shows it."""
        shown: Object = {
            "attributes": self.attributes,
            "name": self.name,
            "type": self.kind,
            "stream": self.stream,
            "toxicity": int(self.toxicity) if self.toxicity == int(self.toxicity) else self.toxicity,
        }
        if self.ttl_s is not None:
            shown |= lease_as_json(self.ttl_s, self.expires_at - now)
        return shown


class Change:
    """What an update asks of a toxic. `lease` says whether the request speaks of the lease at all."""

    __slots__ = ("attributes", "lease", "toxicity", "ttl_s")

    def __init__(self, toxic: Toxic, value: Any) -> None:
        """Read a request body. Raises `ApiError` 400."""
        fields = as_object(value, "toxics.ToxicWrapper")
        self.attributes = _attributes(toxic.kind, fields, toxic.attributes)
        self.toxicity = number(fields, "toxicity", toxic.toxicity, 0, 1)
        self.lease = "ttl_s" in fields
        self.ttl_s = ttl(fields)


def parse(value: Any) -> Toxic:
    """Return the toxic that a request body describes. Raises `ApiError` 400, in Toxiproxy's order of checks."""
    fields = as_object(value, "toxics.ToxicWrapper")
    name, kind = text(fields, "name", ""), text(fields, "type", "")
    stream = text(fields, "stream", "downstream")
    toxicity = number(fields, "toxicity", 1.0, 0, 1)
    if stream.lower() not in ("upstream", "downstream"):
        raise ApiError("stream was invalid, can be either upstream or downstream", 400)
    if kind not in KINDS:
        raise ApiError("invalid toxic type", 400)
    toxic = Toxic(name or f"{kind}_{stream}", kind, stream, toxicity, _attributes(kind, fields, {}))
    toxic.ttl_s = ttl(fields)
    return toxic


def ttl(fields: Object) -> float | None:
    """Return the lease that a request asks for, seconds, or None. Raises `ApiError` 400."""
    if fields.get("ttl_s") is None:
        return None
    found = number(fields, "ttl_s", 0.0, 0, LONGEST_LEASE_S)
    if found <= 0:
        raise bad("ttl_s must be more than 0 seconds")
    return found


def lease_as_json(ttl_s: float, left_s: float) -> Object:
    """Return the two fields that show a lease."""
    return {"ttl_s": ttl_s, "expires_in_s": round(max(0.0, left_s), 3)}


def _attributes(kind: str, fields: Object, before: dict[str, int]) -> dict[str, int]:
    given = as_object(fields.get("attributes"), "toxics.Toxic")
    return {key: whole(given, key, before.get(key, 0)) for key in KINDS[kind]}
