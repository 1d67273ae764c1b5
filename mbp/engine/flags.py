"""Feature flags: declared here with category, owner and default; what was changed is kept in the store, and audited."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from mbp.engine.cpmm import Refused
from mbp.engine.records import Change, FlagRow
from mbp.engine.show import show_wall
from mbp.engine.store import Store

CREATE_MARKET = "mbp.create_market"
RESOLVE_MANUAL = "mbp.resolve.manual"


@dataclass(frozen=True, slots=True)
class Flag:
    """A flag as declared. A kill switch stops a use of the platform; a permission gives someone a power."""

    name: str
    category: Literal["kill_switch", "permission"]
    owner: str
    default: bool
    summary: str


DECLARED = {
    flag.name: flag
    for flag in (
        Flag(CREATE_MARKET, "kill_switch", "PM", True, "markets can be opened"),
        Flag(RESOLVE_MANUAL, "permission", "PM/BC", True, "a market can be resolved by hand, not by its rule alone"),
    )
}


class Flags:
    """The flags of one engine."""

    def __init__(self, store: Store, wall: Callable[[], float]) -> None:
        """Load what was changed."""
        self._store, self._wall = store, wall
        self._changed = {row.name: row for row in store.records.flags()}

    def on(self, name: str) -> bool:
        """Tell whether a declared flag is on."""
        row = self._changed.get(name)
        return DECLARED[name].default if row is None else row.on

    def require(self, name: str) -> None:
        """Raise :class:`Refused` (``flag_off``) when the flag is off."""
        if not self.on(name):
            flag = DECLARED[name]
            why = self._changed[name].reason if name in self._changed else "its default"
            raise Refused("flag_off", f"the flag {name} is off ({why}); it belongs to {flag.owner}")

    def listed(self) -> list[dict[str, Any]]:
        """Return every flag as it is answered."""
        return [self.show(name) for name in DECLARED]

    def show(self, name: str) -> dict[str, Any]:
        """Return a declared flag as it is answered."""
        flag, row = DECLARED[name], self._changed.get(name)
        return {
            "name": name,
            "on": self.on(name),
            "category": flag.category,
            "owner": flag.owner,
            "default": flag.default,
            "summary": flag.summary,
            "reason": "" if row is None else row.reason,
            "changed_at": show_wall(None if row is None else row.changed_at),
        }

    def put(self, name: str, on: bool, reason: str, key: str | None, trace_id: str | None) -> dict[str, Any]:
        """Set a flag and audit it; what already is so leaves no row. Raises :class:`Refused` (``flag_not_found``)."""
        if name not in DECLARED:
            raise Refused("flag_not_found", f"there is no flag {name!r:.80}; there are {', '.join(DECLARED)}")
        records, request = self._store.records, f"flag {name} {on} {reason!r}"
        if key is not None and (kept := answered(self._store, key, request)) is not None:
            return kept
        before, at = dict(self._changed), self._wall()
        try:
            with self._store.transaction():
                if on != self.on(name):
                    records.add_change(
                        Change(at, "flag", name, "flag", {"on": not on}, {"on": on}, reason, key, trace_id)
                    )
                    self._changed[name] = FlagRow(name, on, reason, at)
                    records.put_flag(self._changed[name])
                answer = self.show(name)
                if key is not None:
                    records.keep(key, request, answer)
        except BaseException:
            self._changed = before  # nothing was stored, so nothing has changed
            raise
        return answer


def answered(store: Store, key: str, request: str) -> dict[str, Any] | None:
    """Return what an idempotency key was answered, None for a new one; raises :class:`Refused` for another request."""
    kept = store.records.kept(key)
    if kept is None:
        return None
    if kept[0] != request:
        raise Refused("idempotency_key_reused", f"the key was used for another request: {kept[0]}")
    return kept[1]
