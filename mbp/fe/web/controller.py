"""What the front end's release controller decides: which bundle is served. Every change is stored and audited once.

Setting what already is answers 200 and leaves no audit row: nothing was changed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from mbp._service import wall_text
from mbp._store import Change, difference
from mbp.fe.web.bundles import Bundle
from mbp.fe.web.store import State, Status, Store

BUNDLE_OF: dict[Status, Bundle] = {"candidate": "candidate", "stable": "stable", "reverted": "stable"}


class Controller:
    """The state machine over one store. Single-threaded: every call runs to its end on the event loop."""

    def __init__(self, store: Store, wall: Callable[[], float]) -> None:
        """Load the state."""
        self.store, self._wall = store, wall
        self.state = store.state()

    @property
    def bundle(self) -> Bundle:
        """The bundle that is served."""
        return BUNDLE_OF[self.state.status]

    def show(self) -> dict[str, Any]:
        """Return the state as it is answered."""
        state = self.state
        return {
            "status": state.status,
            "bundle": self.bundle,
            "version": state.version,
            "changed_at": wall_text(state.changed_at),
        }

    def set_status(self, status: Status, key: str | None) -> dict[str, Any]:
        """Set the status directly; not a deploy, so no watcher has a say."""
        return self._once(key, f"status {status}", lambda: self._become(status, "status", "", key))

    def roll_back(self, reason: str, key: str | None) -> dict[str, Any]:
        """Serve the old bundle."""
        return self._once(key, f"rollback {reason!r}", lambda: self._become("reverted", "rollback", reason, key))

    def answered(self, version: str, key: str | None) -> dict[str, Any] | None:
        """Return what a deploy under this key was answered, None when it was not; raises as the store's `answered`."""
        return self.store.answered(key, _deploy(version))

    def deploy(self, version: str, key: str | None) -> dict[str, Any]:
        """Serve a new version as the candidate. Whether the watchers allow it is asked before."""

        def work() -> dict[str, Any]:
            old, new = self.state, State("candidate", version, self._wall())
            before, after = ({"status": each.status, "version": each.version} for each in (old, new))
            seq = self._change(new, Change(new.changed_at, "deploy", before, after, "", key))
            return {"id": seq, "version": version, "at": wall_text(new.changed_at)}

        return self._once(key, _deploy(version), work)

    def _become(self, status: Status, event: str, reason: str, key: str | None) -> dict[str, Any]:
        wanted = replace(self.state, status=status, changed_at=self._wall())
        before, after = difference(self.state, wanted, ("status",))
        if after:
            self._change(wanted, Change(wanted.changed_at, event, before, after, reason, key))
        return self.show()

    def _change(self, wanted: State, change: Change) -> int:
        self.state = wanted
        self.store.put_state(wanted)
        return self.store.add_change(change)

    def _once(self, key: str | None, request: str, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        try:
            return self.store.once(key, request, work)
        finally:
            self.state = self.store.state()  # memory says what the store says, also after a failed commit


def _deploy(version: str) -> str:
    return f"deploy {version!r}"
