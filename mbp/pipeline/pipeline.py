"""What the pipeline decides: whether a deploy goes out, whether a change is merged. Every decision is audited.

A deploy goes out only while the pipeline runs, no critical watcher fires, and what serves the component takes it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from mbp._service import wall_text
from mbp.pipeline.store import Change, Name, Store, Switch
from mbp.pipeline.watchers import Blind, Watchers

OUTCOMES = ("done", "halted", "firing", "blind", "refused", "unreachable")


class Refused(Exception):
    """The pipeline's no: HTTP status, stable code, text."""

    def __init__(self, status: int, code: str, detail: str) -> None:
        """Keep the three parts of the answer."""
        super().__init__(detail)
        self.status, self.code, self.detail = status, code, detail


class Component(Protocol):
    """What serves a component and takes its deploys."""

    async def deploy(self, version: str, key: str | None) -> None:
        """Hand on a deploy. Raises :class:`Refused`: its refusal as it is, or that it cannot be reached."""


class Pipeline:
    """The pipeline over one store; between two waits it runs on the event loop undisturbed."""

    def __init__(
        self, store: Store, watchers: Watchers, components: Mapping[str, Component], wall: Callable[[], float]
    ) -> None:
        """Decide by what is stored, what the watchers say and what the components take."""
        self._store, self._watchers, self._components, self._wall = store, watchers, components, wall
        self.outcomes = {(name, outcome): 0 for name in ("dec", "fe") for outcome in OUTCOMES}

    def switch(self, name: Name) -> Switch:
        """Return a switch as it is stored."""
        return self._store.switch(name)

    def show(self, name: Name) -> dict[str, Any]:
        """Return a switch as it is answered."""
        switch = self._store.switch(name)
        field = "status" if name == "pipeline" else "gate"
        return {field: switch.state, "reason": switch.reason, "changed_at": wall_text(switch.changed_at)}

    def turn(self, name: Name, state: str, reason: str, key: str | None) -> dict[str, Any]:
        """Turn a switch; what is that way already is left, without an audit row. Raises :class:`Refused`."""
        request = f"{name} {state} {reason!r}"
        if (kept := self._kept(key, request)) is not None:
            return kept
        held = self._store.switch(name)
        with self._store.transaction():
            if held.state != state:
                at = self._wall()
                kept_reason = reason if state in ("halted", "blocked") else ""
                self._store.put_switch(name, Switch(state, kept_reason, at))
                self._store.add_change(Change(at, name, {"state": held.state}, {"state": state}, reason, key))
            answer = self.show(name)
            if key is not None:
                self._store.keep(key, request, answer)
        return answer

    async def deploy(self, component: str, version: str, key: str | None) -> dict[str, Any]:
        """Deploy a version of a component and return the record. Raises :class:`Refused`; a refusal is audited."""
        request = f"deploy {component} {version}"
        if (kept := self._kept(key, request)) is not None:
            return kept
        try:
            self._running()
            await self._quiet()
            self._running()  # it may have been halted while the watchers were asked
            target = self._components.get(component)
            if target is None:
                raise Refused(503, "component_unreachable", f"this pipeline was given no address for {component}")
            await target.deploy(version, key)
        except Refused as refused:
            self._audit_refusal(component, version, refused, key)
            raise
        if (kept := self._kept(key, request)) is not None:  # the same request came twice and was quicker
            return kept
        at = self._wall()
        with self._store.transaction():
            number = self._store.add_deploy(component, version, at)
            answer = {"id": number, "component": component, "version": version, "at": wall_text(at)}
            after = {"component": component, "version": version}
            self._store.add_change(Change(at, "deploy", {}, after, "", key))
            if key is not None:
                self._store.keep(key, request, answer)
        self.outcomes[component, "done"] += 1
        return answer

    def merge(self, change: str, key: str | None) -> dict[str, Any]:
        """Record a merge and return it. Raises :class:`Refused` while the gate is blocked; a refusal is audited."""
        request = f"merge {change}"
        if (kept := self._kept(key, request)) is not None:
            return kept
        held, at = self._store.switch("merge"), self._wall()
        if held.state == "blocked":
            refused = Refused(409, "merge_blocked", f"the gate is blocked: {held.reason or 'no reason given'}")
            with self._store.transaction():
                row = Change(at, "merge_refused", {}, {"change": change}, f"{refused.code}: {refused.detail}", key)
                self._store.add_change(row)
            raise refused
        with self._store.transaction():
            answer = {"id": self._store.add_merge(change, at), "change": change, "at": wall_text(at)}
            self._store.add_change(Change(at, "merge_done", {}, {"change": change}, "", key))
            if key is not None:
                self._store.keep(key, request, answer)
        return answer

    def audit(self, after: int, limit: int) -> dict[str, Any]:
        """Return a page of the audit as it is answered."""
        found = self._store.changes(after, limit)
        rows = [
            {
                "seq": seq, "at": wall_text(change.at), "event": change.event, "before": change.before,
                "after": change.after, "reason": change.reason, "idempotency_key": change.idempotency_key,
            }
            for seq, change in found
        ]  # fmt: skip
        return {"rows": rows, "next": found[-1][0] if found else after}

    def probe(self) -> None:
        """Raise sqlite3.Error when no change could be stored now."""
        self._store.probe()

    # -- inside --------------------------------------------------------------------------------------------------

    def _kept(self, key: str | None, request: str) -> dict[str, Any] | None:
        """Return the answer that a key already got. Refusals are not kept: what was halted may be asked again."""
        kept = None if key is None else self._store.kept(key)
        if kept is None:
            return None
        if kept[0] != request:
            raise Refused(409, "idempotency_key_reused", f"the key was used for another request: {kept[0]}")
        return kept[1]

    def _running(self) -> None:
        held = self._store.switch("pipeline")
        if held.state == "halted":
            raise Refused(409, "pipeline_halted", f"the pipeline is halted: {held.reason or 'no reason given'}")

    async def _quiet(self) -> None:
        try:
            firing = await self._watchers.firing()
        except Blind as blind:
            raise Refused(503, "watchers_blind", f"nobody can say whether a critical watcher fires: {blind}") from None
        if firing:
            raise Refused(409, "watcher_firing", f"firing: {', '.join(firing)}")

    def _audit_refusal(self, component: str, version: str, refused: Refused, key: str | None) -> None:
        outcome = {
            "pipeline_halted": "halted", "watcher_firing": "firing", "watchers_blind": "blind",
            "component_unreachable": "unreachable",
        }.get(refused.code, "refused")  # fmt: skip
        self.outcomes[component, outcome] += 1
        after = {"component": component, "version": version}
        with self._store.transaction():
            reason = f"{refused.code}: {refused.detail}"[:2000]
            self._store.add_change(Change(self._wall(), "deploy_refused", {}, after, reason, key))
