"""The executor's store under any order of deliveries: a model target says what must be in effect in the end."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from mbp.hooks import webhook
from mbp.hooks.store import MAX_ATTEMPTS, Job, Store
from mbp.hooks.table import load
from tests.mbp._a110 import alert, delivery

TABLE = load()
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("firing"), st.sampled_from("abc")),
        st.tuples(st.just("resolved"), st.sampled_from("abc")),
        st.tuples(st.just("work"), st.booleans()),
        st.tuples(st.just("crash"), st.booleans()),
    ),
    max_size=25,
)


class World:
    """The store, and a gate that honours idempotency keys."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.blocked = False
        self.keys: dict[str, int] = {}
        self.effects: list[str] = []
        self.store = self.open()

    def open(self) -> Store:
        return Store(self.folder, TABLE, ["release"], lambda: 1.7e9)

    def deliver(self, status: str, which: str) -> None:
        body = delivery(alert(status, fingerprint=f"{ord(which):016x}"))
        self.store.accept(webhook.parse(body), body)

    def call(self, job: Job) -> None:
        if job.key not in self.keys:
            self.blocked = job.kind == "do"
            self.effects.append(job.key)
        self.keys[job.key] = self.keys.get(job.key, 0) + 1

    def work(self, works: bool) -> bool:
        """Do one job as the workers do; False when there is none. With `works` false the call's answer is lost."""
        job = self.store.claim(())
        if job is None:
            return False
        ask = job.kind == "undo" or not job.sent
        in_effect = self.blocked if ask else None
        if not self.store.begin(job, in_effect):
            return True
        if job.kind == "do" or self.blocked:
            self.call(job)
        if works or job.attempt >= MAX_ATTEMPTS:
            self.store.succeed(job, "")
        else:
            self.store.again(job, "no answer")
        return True

    def crash(self, begun: bool) -> None:
        """Die in the middle of a job, before or after the call, and come back."""
        job = self.store.claim(())
        if job is not None and begun:
            in_effect = self.blocked if job.kind == "undo" or not job.sent else None
            if self.store.begin(job, in_effect) and (job.kind == "do" or self.blocked):
                self.call(job)
        self.store.close()
        self.store = self.open()


@settings(max_examples=60, deadline=None)
@given(STEPS)
def test_the_gate_is_blocked_exactly_while_an_alert_fires(steps: list[tuple[str, str | bool]]) -> None:
    """Whatever the order of firing, resolving, lost answers and crashes: no effect twice, none left over, none lost."""
    with tempfile.TemporaryDirectory() as folder:
        world = World(Path(folder))
        firing: set[str] = set()
        try:
            for what, argument in steps:
                if what == "work":
                    world.work(bool(argument))
                elif what == "crash":
                    world.crash(bool(argument))
                else:
                    (firing.add if what == "firing" else firing.discard)(str(argument))
                    world.deliver(what, str(argument))
            while world.work(True):
                pass
            assert world.blocked == bool(firing)
            assert len(world.effects) == len(set(world.effects))
            assert world.store.audit.first_break() is None
            assert world.store.counts()["pending"] == world.store.counts()["running"] == 0
        finally:
            world.store.close()


def test_a_block_that_is_wanted_again_is_not_lifted_in_between(tmp_path: Path) -> None:
    """Resolved and firing again before the putting back began: the gate never opens."""
    world = World(tmp_path)
    world.deliver("firing", "a")
    world.work(True)
    world.deliver("resolved", "a")
    world.deliver("firing", "a")
    while world.work(True):
        pass
    assert (world.blocked, len(world.effects)) == (True, 1)
    world.store.close()


def test_nothing_is_queued_while_another_alert_holds_the_block(tmp_path: Path) -> None:
    """One of two alerts resolved: there is nothing to do."""
    world = World(tmp_path)
    for which in "ab":
        world.deliver("firing", which)
    while world.work(True):
        pass
    world.deliver("resolved", "a")
    assert world.store.open_jobs() == 0
    world.store.close()


def test_an_alert_that_resolves_between_claim_and_call_is_not_acted_on(tmp_path: Path) -> None:
    """The last look is taken in the same transaction that says the call is about to be made."""
    world = World(tmp_path)
    world.deliver("firing", "a")
    job = world.store.claim(())
    world.deliver("resolved", "a")
    assert job is not None and not world.store.begin(job, False)
    assert world.store.counts()["skipped"] == 1
    assert world.store.open_jobs() == 0
    world.store.close()
