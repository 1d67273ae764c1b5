"""What the pipeline decides: whether a deploy goes out, whether a change is merged. Every decision is audited.

A deploy goes out only while the pipeline runs, no critical watcher fires, and what serves the component takes it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from mbp._asgi import ApiError
from mbp._service import wall_text
from mbp._store import Change
from mbp._watchers import Watchers, require_silence
from mbp.pipeline.store import Name, Store, Switch

OUTCOMES = ("done", "halted", "firing", "blind", "refused", "unreachable")


class Component(Protocol):
    """What serves a component and takes its deploys."""

    async def deploy(self, version: str, key: str | None) -> None:
        """Hand on a deploy. Raises :class:`ApiError`: its refusal as it is, or that it cannot be reached."""


class Pipeline:
    """The pipeline over one store; between two waits it runs on the event loop undisturbed."""

    def __init__(
        self, store: Store, watchers: Watchers, components: Mapping[str, Component], wall: Callable[[], float]
    ) -> None:
        """Decide by what is stored, what the watchers say and what the components take."""
        self.store, self._watchers, self._components, self._wall = store, watchers, components, wall
        self.outcomes = {(name, outcome): 0 for name in ("dec", "fe") for outcome in OUTCOMES}

    def switch(self, name: Name) -> Switch:
        """Return a switch as it is stored."""
        return self.store.switch(name)

    def show(self, name: Name) -> dict[str, Any]:
        """Return a switch as it is answered."""
        switch = self.store.switch(name)
        field = "status" if name == "pipeline" else "gate"
        return {field: switch.state, "reason": switch.reason, "changed_at": wall_text(switch.changed_at)}

    def turn(self, name: Name, state: str, reason: str, key: str | None) -> dict[str, Any]:
        """Turn a switch; what is that way already is left, without an audit row. Raises :class:`ApiError`."""

        def work() -> dict[str, Any]:
            held = self.store.switch(name)
            if held.state != state:
                at = self._wall()
                kept_reason = reason if state in ("halted", "blocked") else ""
                self.store.put_switch(name, Switch(state, kept_reason, at))
                self.store.add_change(Change(at, name, {"state": held.state}, {"state": state}, reason, key))
            return self.show(name)

        return self.store.once(key, f"{name} {state} {reason!r}", work)

    async def deploy(self, component: str, version: str, key: str | None) -> dict[str, Any]:
        """Deploy a version of a component and return the record. Raises :class:`ApiError`; a refusal is audited."""
        request = f"deploy {component} {version}"
        if (kept := self.store.answered(key, request)) is not None:
            return kept
        try:
            self._running()
            await require_silence(self._watchers)
            self._running()  # it may have been halted while the watchers were asked
            target = self._components.get(component)
            if target is None:
                raise ApiError(503, "component_unreachable", f"this pipeline was given no address for {component}")
            await target.deploy(version, key)
        except ApiError as refused:
            self._audit_refusal(component, version, refused, key)
            raise
        if (kept := self.store.answered(key, request)) is not None:  # the same request came twice and was quicker
            return kept
        at, after = self._wall(), {"component": component, "version": version}

        def record() -> dict[str, Any]:
            number = self.store.add_deploy(component, version, at)
            self.store.add_change(Change(at, "deploy", {}, after, "", key))
            return {"id": number, **after, "at": wall_text(at)}

        answer = self.store.once(key, request, record)
        self.outcomes[component, "done"] += 1
        return answer

    def merge(self, change: str, key: str | None) -> dict[str, Any]:
        """Record a merge and return it. Raises :class:`ApiError` while the gate is blocked; a refusal is audited."""
        request = f"merge {change}"
        if (kept := self.store.answered(key, request)) is not None:
            return kept
        held, at = self.store.switch("merge"), self._wall()
        if held.state == "blocked":
            refused = ApiError(409, "merge_blocked", f"the gate is blocked: {held.reason or 'no reason given'}")
            with self.store.transaction():
                row = Change(at, "merge_refused", {}, {"change": change}, f"{refused.code}: {refused.detail}", key)
                self.store.add_change(row)
            raise refused

        def record() -> dict[str, Any]:
            self.store.add_change(Change(at, "merge_done", {}, {"change": change}, "", key))
            return {"id": self.store.add_merge(change, at), "change": change, "at": wall_text(at)}

        return self.store.once(key, request, record)

    # -- inside --------------------------------------------------------------------------------------------------

    def _running(self) -> None:
        held = self.store.switch("pipeline")
        if held.state == "halted":
            raise ApiError(409, "pipeline_halted", f"the pipeline is halted: {held.reason or 'no reason given'}")

    def _audit_refusal(self, component: str, version: str, refused: ApiError, key: str | None) -> None:
        outcome = {
            "pipeline_halted": "halted", "watcher_firing": "firing", "watchers_blind": "blind",
            "component_unreachable": "unreachable",
        }.get(refused.code, "refused")  # fmt: skip
        self.outcomes[component, outcome] += 1
        after = {"component": component, "version": version}
        with self.store.transaction():
            reason = f"{refused.code}: {refused.detail}"[:2000]
            self.store.add_change(Change(self._wall(), "deploy_refused", {}, after, reason, key))
