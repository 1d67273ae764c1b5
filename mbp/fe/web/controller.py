"""What the front end's release controller decides: which bundle is served. Every change is stored and audited once.

Setting what already is answers 200 and leaves no audit row: nothing was changed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

from mbp._asgi import ApiError
from mbp._service import wall_text
from mbp.fe.web.bundles import Bundle
from mbp.fe.web.store import Change, State, Status, Store

BUNDLE_OF: dict[Status, Bundle] = {"candidate": "candidate", "stable": "stable", "reverted": "stable"}


class Controller:
    """The state machine over one store. Single-threaded: every call runs to its end on the event loop."""

    def __init__(self, store: Store, wall: Callable[[], float]) -> None:
        """Load the state."""
        self._store, self._wall = store, wall
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
        """Return what a deploy under this key was answered; raises :class:`ApiError` (409) for another request."""
        return None if key is None else self._kept(key, _deploy(version))

    def deploy(self, version: str, key: str | None) -> dict[str, Any]:
        """Serve a new version as the candidate. Whether the watchers allow it is asked before."""

        def work() -> dict[str, Any]:
            at = self._wall()
            wanted = State("candidate", version, at)
            seq = self._change(wanted, "deploy", "", key)
            return {"id": seq, "version": version, "at": wall_text(at)}

        return self._once(key, _deploy(version), work)

    def audit(self, after: int, limit: int) -> dict[str, Any]:
        """Return a page of the audit as it is answered."""
        found = self._store.changes(after, limit)
        rows = [{"seq": seq, **asdict(change), "at": wall_text(change.at)} for seq, change in found]
        return {"rows": rows, "next": found[-1][0] if found else after}

    def probe(self) -> None:
        """Raise sqlite3.Error when no change could be stored now."""
        self._store.probe()

    def _become(self, status: Status, event: str, reason: str, key: str | None) -> dict[str, Any]:
        if status != self.state.status:
            self._change(replace(self.state, status=status, changed_at=self._wall()), event, reason, key)
        return self.show()

    def _change(self, wanted: State, event: str, reason: str, key: str | None) -> int:
        before, after = asdict(self.state), asdict(wanted)
        names = [name for name in ("status", "version") if before[name] != after[name] or event == "deploy"]
        self.state = wanted
        self._store.put_state(wanted)
        old, new = {name: before[name] for name in names}, {name: after[name] for name in names}
        return self._store.add_change(Change(wanted.changed_at, event, old, new, reason, key))

    def _kept(self, key: str, request: str) -> dict[str, Any] | None:
        kept = self._store.kept(key)
        if kept is not None and kept[0] != request:
            raise ApiError(409, "idempotency_key_reused", f"the key was used for another request: {kept[0]}")
        return None if kept is None else kept[1]

    def _once(self, key: str | None, request: str, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Do ``work`` in one transaction, or give the answer that its idempotency key already got."""
        kept = None if key is None else self._kept(key, request)
        if kept is not None:
            return kept
        try:
            with self._store.transaction():
                answer = work()
                if key is not None:
                    self._store.keep(key, request, answer)
        finally:
            self.state = self._store.state()  # memory says what the store says, also after a failed commit
        return answer


def _deploy(version: str) -> str:
    return f"deploy {version!r}"
