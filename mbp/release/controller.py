"""What the release controller decides: gate, status, weights, deploys, switches.

Every change is stored and audited once.
Setting what already is answers 200 and leaves no audit row: nothing was changed.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from mbp._service import wall_text
from mbp.release.rotation import Rotation
from mbp.release.store import Change, Gate, Kept, State, Status, Store
from mbp.release.switches import Switches

# The weights that go with a status: (stable, candidate).
WEIGHTS: dict[Status, tuple[int, int]] = {"candidate": (0, 100), "stable": (100, 0), "reverted": (100, 0)}


class Conflict(Exception):
    """The request stands against the state; ``code`` is stable."""

    def __init__(self, code: str, detail: str) -> None:
        """Keep the stable code and the text."""
        super().__init__(detail)
        self.code, self.detail = code, detail


class Controller:
    """The state machine over one store. Single-threaded: every call runs to its end on the event loop."""

    def __init__(self, store: Store, wall: Callable[[], float]) -> None:
        """Load the state."""
        self._store, self._wall = store, wall
        self.state = store.state()
        self.switches = Switches(store, wall)
        self.rotation = Rotation({"stable": self.state.stable, "candidate": self.state.candidate})

    def show(self) -> dict[str, Any]:
        """Return the state as it is answered."""
        state = self.state
        return {
            "gate": state.gate,
            "status": state.status,
            "weights": {"stable": state.stable, "candidate": state.candidate},
            "gate_reason": state.gate_reason,
            "throttled": self.switches.throttled,
            "changed_at": wall_text(state.changed_at),
        }

    def set_gate(self, gate: Gate, reason: str, key: str | None) -> dict[str, Any]:
        """Open or block the gate, with a reason (kept while it is blocked)."""
        wanted = replace(self.state, gate=gate, gate_reason=reason if gate == "blocked" else "")
        return self._once(key, f"gate {gate} {reason!r}", lambda: self._become(wanted, "gate", reason, key))

    def set_status(self, status: Status, key: str | None) -> dict[str, Any]:
        """Set the status and the weights that go with it; not a deploy, so the gate has no say.

        Putting back what a rollback did ends the throttle that came with it, in the same transaction.
        """

        def become() -> dict[str, Any]:
            if status != "reverted":
                self.switches.lift(f"status set to {status}", key)
            return self._become(self._with(status), "status", "", key)

        return self._once(key, f"status {status}", become)

    def set_weights(self, stable: int, candidate: int, key: str | None) -> dict[str, Any]:
        """Set the weights and leave the status as it is."""
        wanted = replace(self.state, stable=stable, candidate=candidate)
        return self._once(key, f"weights {stable} {candidate}", lambda: self._become(wanted, "weights", "", key))

    def roll_back(self, reason: str, key: str | None) -> dict[str, Any]:
        """Give all traffic to the stable release."""
        wanted = self._with("reverted")
        return self._once(key, f"rollback {reason!r}", lambda: self._become(wanted, "rollback", reason, key))

    def deploy(self, version: str, key: str | None) -> dict[str, Any]:
        """Record the deploy of a version as the candidate; raises :class:`Conflict` while the gate is blocked."""

        def record() -> dict[str, Any]:
            if self.state.gate == "blocked":
                raise Conflict("release_blocked", f"the gate is blocked: {self.state.gate_reason or 'no reason given'}")
            at = self._wall()
            deploy = {"id": self._store.add_deploy(version, at), "version": version, "at": wall_text(at)}
            self._store.add_change(Change(at, "deploy", {}, {"version": version}, "", key))
            return deploy

        return self._once(key, f"deploy {version!r}", record, status=201)

    def switch(self, name: str, value: dict[str, Any], reason: str, key: str | None) -> dict[str, Any]:
        """Set a switch (:mod:`mbp.release.switches`) and return how it then stands."""
        request = f"{name} {json.dumps(value, sort_keys=True)} {reason!r}"
        return self._once(key, request, lambda: self.switches.set(name, value, reason, key))

    def audit(self, after: int, limit: int) -> dict[str, Any]:
        """Return a page of the audit as it is answered."""
        found = self._store.changes(after, limit)
        rows = [
            {
                "seq": seq,
                "at": wall_text(change.at),
                "event": change.event,
                "before": change.before,
                "after": change.after,
                "reason": change.reason,
                "idempotency_key": change.idempotency_key,
            }
            for seq, change in found
        ]
        return {"rows": rows, "next": found[-1][0] if found else after}

    def probe(self) -> None:
        """Raise sqlite3.Error when no change could be stored now."""
        self._store.probe()

    def _with(self, status: Status) -> State:
        stable, candidate = WEIGHTS[status]
        return replace(self.state, status=status, stable=stable, candidate=candidate)

    def _once(
        self, key: str | None, request: str, work: Callable[[], dict[str, Any]], status: int = 200
    ) -> dict[str, Any]:
        """Do ``work`` in one transaction, or give the answer that its idempotency key already got.

        Refusals are not kept: what was blocked may be asked again under the same key.
        """
        if key is not None:
            kept = self._store.kept(key)
            if kept is not None:
                if kept.request != request:
                    raise Conflict("idempotency_key_reused", f"the key was used for another request: {kept.request}")
                return kept.answer
        try:
            with self._store.transaction():
                answer = work()
                if key is not None:
                    self._store.keep(key, Kept(request, status, answer))
        finally:
            self._reload()  # memory says what the store says, also after a failed commit
        return answer

    def _become(self, wanted: State, event: str, reason: str, key: str | None) -> dict[str, Any]:
        before, after = _difference(self.state, wanted)
        if after:
            at = self._wall()
            self.state = replace(wanted, changed_at=at)
            self._store.put_state(self.state)
            self._store.add_change(Change(at, event, before, after, reason, key))
        return self.show()

    def _reload(self) -> None:
        self.state = self._store.state()
        self.switches.reload()
        weights = {"stable": self.state.stable, "candidate": self.state.candidate}
        if weights != self.rotation.weights:
            self.rotation.set(weights)


def _difference(old: State, new: State) -> tuple[dict[str, Any], dict[str, Any]]:
    names = ("gate", "status", "stable", "candidate", "gate_reason")
    changed = [name for name in names if getattr(old, name) != getattr(new, name)]
    return {name: getattr(old, name) for name in changed}, {name: getattr(new, name) for name in changed}
