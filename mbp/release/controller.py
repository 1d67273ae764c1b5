"""What the release controller decides: gate, status, weights, deploys, switches.

Every change is stored and audited once.
Setting what already is answers 200 and leaves no audit row: nothing was changed.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from mbp._asgi import ApiError
from mbp._service import wall_text
from mbp._store import Change, difference
from mbp.release.rotation import Rotation
from mbp.release.store import Gate, State, Status, Store
from mbp.release.switches import Switches

# What of the state the audit shows.
AUDITED = ("gate", "status", "stable", "candidate", "gate_reason")
# The weights that go with a status: (stable, candidate).
WEIGHTS: dict[Status, tuple[int, int]] = {"candidate": (0, 100), "stable": (100, 0), "reverted": (100, 0)}


class Controller:
    """The state machine over one store. Single-threaded: every call runs to its end on the event loop."""

    def __init__(self, store: Store, wall: Callable[[], float]) -> None:
        """Load the state."""
        self.store, self._wall = store, wall
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
        """Record the deploy of a version as the candidate; raises :class:`ApiError` (409) while the gate is blocked."""

        def record() -> dict[str, Any]:
            if self.state.gate == "blocked":
                why = self.state.gate_reason or "no reason given"
                raise ApiError(409, "release_blocked", f"the gate is blocked: {why}")
            at = self._wall()
            deploy = {"id": self.store.add_deploy(version, at), "version": version, "at": wall_text(at)}
            self.store.add_change(Change(at, "deploy", {}, {"version": version}, "", key))
            return deploy

        return self._once(key, f"deploy {version!r}", record)

    def switch(self, name: str, value: dict[str, Any], reason: str, key: str | None) -> dict[str, Any]:
        """Set a switch (:mod:`mbp.release.switches`) and return how it then stands."""
        request = f"{name} {json.dumps(value, sort_keys=True)} {reason!r}"
        return self._once(key, request, lambda: self.switches.set(name, value, reason, key))

    def _with(self, status: Status) -> State:
        stable, candidate = WEIGHTS[status]
        return replace(self.state, status=status, stable=stable, candidate=candidate)

    def _once(self, key: str | None, request: str, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        try:
            return self.store.once(key, request, work)
        finally:
            self._reload()  # memory says what the store says, also after a failed commit

    def _become(self, wanted: State, event: str, reason: str, key: str | None) -> dict[str, Any]:
        before, after = difference(self.state, wanted, AUDITED)
        if after:
            at = self._wall()
            self.state = replace(wanted, changed_at=at)
            self.store.put_state(self.state)
            self.store.add_change(Change(at, event, before, after, reason, key))
        return self.show()

    def _reload(self) -> None:
        self.state = self.store.state()
        self.switches.reload()
        weights = {"stable": self.state.stable, "candidate": self.state.candidate}
        if weights != self.rotation.weights:
            self.rotation.set(weights)
