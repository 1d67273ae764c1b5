"""What can be switched beside gate and status: service mode, throttle, shadow. Stored and audited like they are.

A throttle may have an end of its own (wall time, for it outlives a restart); what stands after it is "not throttled",
and the audit has the row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mbp._service import wall_text
from mbp._store import Change
from mbp.release.store import Setting, Store

AT_REST: dict[str, dict[str, Any]] = {
    "mode": {"mode": "normal"},
    "throttle": {"on": False, "rps": None, "until": None, "ttl_s": None},
    "shadow": {"journeys": [], "share": 0},
}


@dataclass(slots=True)
class Bucket:
    """A token bucket: ``rps`` tokens a second, at most one second's worth saved up."""

    rps: float
    tokens: float
    at: float

    def take(self, now: float) -> bool:
        """Take a token at monotonic second ``now``; False when there is none."""
        self.tokens = min(max(self.rps, 1.0), self.tokens + max(0.0, now - self.at) * self.rps)
        self.at = now
        if self.tokens < 1.0:
            return False
        self.tokens -= 1.0
        return True


class Switches:
    """The switches of one controller over its store; changed by :class:`mbp.release.controller.Controller` only."""

    def __init__(self, store: Store, wall: Callable[[], float]) -> None:
        """Load them."""
        self._store, self._wall = store, wall
        self._bucket: Bucket | None = None
        self._settings: dict[str, Setting] = {}
        self.reload()

    def reload(self) -> None:
        """Read them from the store: memory says what the store says."""
        self._settings = {name: self._store.setting(name, value) for name, value in AT_REST.items()}

    @property
    def mode(self) -> str:
        """`normal` or `degraded`."""
        return str(self._settings["mode"].value["mode"])

    @property
    def throttled(self) -> bool:
        """Whether a throttle is in force now."""
        value = self._settings["throttle"].value
        return bool(value["on"]) and (value["until"] is None or self._wall() < value["until"])

    @property
    def shadow(self) -> dict[str, Any]:
        """Return the journeys that are shadowed, and which share of them (0 to 1)."""
        return self._settings["shadow"].value

    def show(self, name: str) -> dict[str, Any]:
        """Return a switch as it is answered."""
        setting = self._settings[name]
        shown = dict(setting.value)
        if name == "throttle":
            until = shown["until"]
            on = self.throttled
            shown = {
                "throttled": on,
                "rps": shown["rps"] if on else None,
                "until": wall_text(until) if on and until else None,
            }
        return {**shown, "reason": setting.reason, "changed_at": wall_text(setting.changed_at)}

    def set(self, name: str, value: dict[str, Any], reason: str, key: str | None) -> dict[str, Any]:
        """Set a switch inside the store's transaction; setting what already is leaves no row."""
        before = self._settings[name]
        if name == "throttle":
            if value.get("throttled", False) and self.throttled and value.get("ttl_s") is None:
                return self.show(name)  # on already, until its end
            value = self._throttle(value)
            if not value["on"] and not self.throttled:
                return self.show(name)
        if before.value != value:
            at = self._wall()
            self._settings[name] = Setting(value, reason, at)
            self._store.put_setting(name, self._settings[name])
            self._store.add_change(Change(at, name, before.value, value, reason, key))
        return self.show(name)

    def lift(self, reason: str, key: str | None) -> None:
        """End a throttle inside the store's transaction, if there is one."""
        self.set("throttle", {"throttled": False}, reason, key)

    def _throttle(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Return what is to be stored: a rate for so long, or on (at the last rate, for as long as last) or off."""
        last = self._settings["throttle"].value
        rps, ttl_s = asked.get("rps"), asked.get("ttl_s")
        on = bool(asked.get("throttled", rps is not None)) and (rps or last["rps"]) is not None
        if rps is None and ttl_s is None:
            ttl_s = last.get("ttl_s")  # a file of before has none
        until = self._wall() + ttl_s if on and ttl_s is not None else None
        return {"on": on, "rps": rps or last["rps"], "until": until, "ttl_s": ttl_s}

    def admit(self, now: float) -> bool:
        """Tell whether a request that comes at monotonic second ``now`` may pass."""
        if not self.throttled:
            self._bucket = None
            return True
        rps = float(self._settings["throttle"].value["rps"])
        if self._bucket is None or self._bucket.rps != rps:
            self._bucket = Bucket(rps, max(rps, 1.0), now)
        return self._bucket.take(now)
