"""The hook executor: what it does, what it leaves alone, what it puts back."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from mbp.hooks import audit, webhook
from mbp.hooks.table import Table, load, parse
from mbp.hooks.worker import rest_s
from tests.mbp._a110 import LATER, Release, Rig, alert, delivery, rig


def play(folder: Path, story: Callable[[Rig], Awaitable[None]], release: Release | None = None,
         table: Table | None = None, **options: Any) -> Release:  # fmt: skip
    """Run a story on a fresh rig, and return its release controller."""

    async def go() -> Release:
        async with rig(folder, release, table, **options) as made:
            await story(made)
            return made.release

    return asyncio.run(go())


def test_an_alert_blocks_the_release_once_and_its_end_opens_it(tmp_path: Path) -> None:
    """One alert, delivered three times: one block, read back; resolved: put back, and the audit tells it in order."""

    async def story(made: Rig) -> None:
        for _ in range(3):
            await made.send(alert())
        assert made.release.gate == "blocked"
        await made.send(alert("resolved"))
        await made.send(alert("resolved"))
        assert await made.events() == [
            (event, "block_release")
            for event in ("accepted", "started", "succeeded", "duplicate", "duplicate", "reverted")
        ]
        assert await made.states() == [("block_release", "succeeded")]

    release = play(tmp_path, story)
    assert (release.gate, release.effects) == ("open", ["blocked", "open"])


def test_the_audit_row_and_the_execution_carry_what_observers_need(tmp_path: Path) -> None:
    """Whole rows are compared, so that a renamed or missing key is noticed."""

    async def story(made: Rig) -> None:
        await made.send(alert())
        page = (await made.http.get("/v1/audit?after=2")).json()
        execution = (await made.http.get("/v1/executions?state=succeeded")).json()["rows"][0]
        (row,) = page["rows"]
        assert page["next"] == 3
        assert row == {
            "seq": 3, "at": "2023-11-14T22:13:20.000000Z", "execution_id": execution["execution_id"],
            "event": "succeeded", "hook": "amm_invariant_breach", "action": "block_release", "target": "release",
            "alert": "AmmInvariantBreach", "fingerprint": "00000000000000a1", "starts_at": "2026-01-02T03:04:05.678Z",
            "detail": "read back: release/release gate == 'blocked'",
            "prev_hash": (await made.http.get("/v1/audit?after=1&limit=1")).json()["rows"][0]["hash"],
            "hash": audit.row_hash(row),
        }  # fmt: skip
        assert {name: execution[name] for name in ("seq", "state", "owner", "attempt", "deliveries", "reverted")} == {
            "seq": 1, "state": "succeeded", "owner": "DEC/PM", "attempt": 1, "deliveries": 1, "reverted": False,
        }  # fmt: skip
        assert (await made.http.get("/v1/audit?tail=1")).json() == {"rows": [], "next": 3}
        assert (await made.http.get("/v1/audit?after=3")).json() == {"rows": [], "next": 3}

    play(tmp_path, story)


def test_a_second_alert_is_skipped_and_holds_the_block_until_the_last_one_ends(tmp_path: Path) -> None:
    """Two alerts of one hook give one action, and it is put back with the last of them."""
    other = {"fingerprint": "00000000000000b2"}

    async def story(made: Rig) -> None:
        await made.send(alert(), alert(**other))
        assert sorted(await made.states()) == [("block_release", "skipped"), ("block_release", "succeeded")]
        await made.send(alert("resolved"))
        assert made.release.gate == "blocked"
        await made.send(alert("resolved", **other))
        assert made.release.gate == "open"

    assert play(tmp_path, story).effects == ["blocked", "open"]


def test_what_is_in_effect_already_is_left_alone_and_not_put_back(tmp_path: Path) -> None:
    """An operator's block is skipped, read from the target itself, and stays when the alert resolves."""

    async def story(made: Rig) -> None:
        await made.send(alert())
        await made.send(alert("resolved"))
        assert await made.events() == [("accepted", "block_release"), ("skipped", "block_release")]

    release = play(tmp_path, story, Release(gate="blocked"))
    assert (release.gate, release.effects) == ("blocked", [])


def test_skipping_asks_the_target_and_never_the_own_rows(tmp_path: Path) -> None:
    """Somebody opened the gate behind the executor's back: the next alert blocks it again."""

    async def story(made: Rig) -> None:
        await made.send(alert())
        made.release.gate = "open"
        await made.send(alert(fingerprint="00000000000000b2"))
        assert await made.states() == [("block_release", "succeeded"), ("block_release", "succeeded")]

    assert play(tmp_path, story).gate == "blocked"


@pytest.mark.parametrize("starts_at", ["2026-01-02T03:04:05.678Z", LATER])
def test_an_alert_that_resolved_and_fires_again_acts_again(tmp_path: Path, starts_at: str) -> None:
    """Also with the same startsAt, as after a stall of the rule engine."""

    async def story(made: Rig) -> None:
        await made.send(alert())
        await made.send(alert("resolved"))
        await made.send(alert(starts_at=starts_at))

    release = play(tmp_path, story)
    assert (release.gate, release.effects) == ("blocked", ["blocked", "open", "blocked"])
    assert len({key for _, key in release.calls}) == 3


def test_a_late_delivery_of_an_alert_that_has_begun_anew_does_nothing(tmp_path: Path) -> None:
    """Deliveries may overtake each other; the older beginning is history."""

    async def story(made: Rig) -> None:
        await made.send(alert(starts_at=LATER))
        await made.send(alert("resolved", starts_at=LATER))
        await made.send(alert())

    release = play(tmp_path, story)
    assert (release.gate, release.effects) == ("open", ["blocked", "open"])


def test_a_new_beginning_ends_the_old_one_whose_end_was_never_heard_of(tmp_path: Path) -> None:
    """Else its lost resolved message would hold the block for ever."""

    async def story(made: Rig) -> None:
        await made.send(alert())
        await made.send(alert(starts_at=LATER))
        await made.send(alert("resolved", starts_at=LATER))

    assert play(tmp_path, story).gate == "open"


def test_rollback_is_never_put_back_by_the_executor(tmp_path: Path) -> None:
    """Its reversal is restore: whoever re-promotes is not it. A step that fails is named and fails nothing."""
    slo = {"name": "DecLatencyP95High", "owner": "SRE"}

    async def story(made: Rig) -> None:
        await made.send(alert(**slo))
        await made.send(alert("resolved", **slo))
        row = (await made.http.get("/v1/executions")).json()["rows"][0]
        assert (row["action"], row["state"], row["reverted"]) == ("rollback", "succeeded", False)
        audit_row = (await made.http.get("/v1/audit?after=2")).json()["rows"][0]
        assert audit_row["detail"].startswith(
            "read back: release/release status == 'reverted'; with throttle; without profile: POST "
        )

    release = play(tmp_path, story)
    assert (release.status, release.effects) == ("reverted", ["rollback"])


def ordered_table() -> Table:
    """Return the bundled table with a hook that blocks and then rolls back."""
    raw = load().model_dump(by_alias=True, mode="json", exclude_none=True)
    hook = raw["hooks"]["amm_invariant_breach"]
    hook["actions"].append({"name": "rollback", "endpoint": "release", "reversal": "restore"})
    return parse(json.dumps(raw), "table")


def test_the_second_action_starts_after_the_first_has_succeeded(tmp_path: Path) -> None:
    """In the audit's own order, also when the first needs three attempts."""
    fails = iter([503, 500])

    async def story(made: Rig) -> None:
        await made.send(alert())
        assert await made.events() == [
            ("accepted", "block_release"), ("accepted", "rollback"), ("started", "block_release"),
            ("retry", "block_release"), ("retry", "block_release"), ("succeeded", "block_release"),
            ("started", "rollback"), ("succeeded", "rollback"),
        ]  # fmt: skip

    release = Release(before=lambda what: next(fails, None) if what == "blocked" else None)
    assert play(tmp_path, story, release, ordered_table()).effects == ["blocked", "rollback"]


def test_the_second_action_does_not_start_when_the_first_is_refused(tmp_path: Path) -> None:
    """A 4xx is final: one attempt, failed, and what stands behind it fails without having been tried."""

    async def story(made: Rig) -> None:
        await made.send(alert())
        assert await made.states() == [("block_release", "failed"), ("rollback", "failed")]
        rows = (await made.http.get("/v1/executions")).json()["rows"]
        assert rows[1]["error"] == "not started: block_release before it ended as failed"

    release = Release(before=lambda what: 409 if what == "blocked" else None)
    assert play(tmp_path, story, release, ordered_table()).effects == []


def test_five_failed_attempts_make_a_dead_letter(tmp_path: Path) -> None:
    """Five calls under one key, no sixth; the reason is in the row."""
    seen: list[str] = []

    def before(what: str) -> int | None:
        seen.append(what)
        return 503 if what == "blocked" else None

    async def story(made: Rig) -> None:
        await made.send(alert())
        row = (await made.http.get("/v1/executions?state=dead_letter")).json()["rows"][0]
        assert row["attempt"] == 5
        assert row["error"].startswith("given up after 5 attempts; the last: PUT http")
        assert await made.events() == [
            (event, "block_release") for event in ("accepted", "started", *["retry"] * 4, "dead_letter")
        ]

    play(tmp_path, story, Release(before=before))
    assert seen.count("blocked") == 5
    assert [rest_s(attempt) for attempt in (1, 2, 3, 4)] == [0.25, 0.75, 2.25, 6.75]


def test_a_2xx_without_the_effect_is_no_success(tmp_path: Path) -> None:
    """The target says yes and does nothing: the read-back notices."""

    async def story(made: Rig) -> None:
        made.release._once = lambda *_: False  # type: ignore[method-assign]
        await made.send(alert())
        assert await made.states() == [("block_release", "dead_letter")]

    play(tmp_path, story)


def test_an_action_without_an_endpoint_is_a_dead_letter_at_once(tmp_path: Path) -> None:
    """With the reason, and nothing behind it starts."""

    async def story(made: Rig) -> None:
        await made.send(alert(name="CdcLagHigh"))
        rows = (await made.http.get("/v1/executions")).json()["rows"]
        assert [(row["action"], row["state"], row["attempt"], row["error"]) for row in rows] == [
            ("degrade", "dead_letter", 0, "degrade: the platform has no endpoint for it yet (dec)"),
            ("rollback", "failed", 0, "not started: degrade before it ended as dead_letter"),
        ]

    raw = load().model_dump(by_alias=True, mode="json", exclude_none=True)
    del raw["operations"]["degrade"]
    assert play(tmp_path, story, table=parse(json.dumps(raw), "table")).effects == []


def test_an_endpoint_whose_address_is_not_known_is_a_dead_letter_at_once(tmp_path: Path) -> None:
    """The executor was started without --release."""

    async def story(made: Rig) -> None:
        await made.send(alert())
        row = (await made.http.get("/v1/executions")).json()["rows"][0]
        assert (row["state"], row["error"]) == (
            "dead_letter", "block_release: the executor was started without the address of release",
        )  # fmt: skip

    play(tmp_path, story, known=False)


def test_an_action_not_begun_when_its_alert_resolves_is_skipped(tmp_path: Path) -> None:
    """The target cannot be read; by the time it can, there is no reason to act any more."""
    down = [True]

    async def story(made: Rig) -> None:
        answer = await made.http.post("/v1/alerts", content=delivery(alert()))
        assert answer.status_code == 202
        await made.send(alert("resolved"))
        down[0] = False
        await made.settle()
        assert (await made.states()) == [("block_release", "skipped")]

    release = Release(before=lambda what: 503 if down[0] and what == "read" else None)
    assert play(tmp_path, story, release).effects == []


def test_the_canary_and_foreign_alerts_are_answered_and_not_acted_on(tmp_path: Path) -> None:
    """202 for both; what became of each is in the answer and in the metrics."""

    async def story(made: Rig) -> None:
        answer = await made.http.post(
            "/v1/alerts", content=delivery(alert(name="SimCanary"), alert(name="SomebodyElses"))
        )
        assert (answer.status_code, answer.json()) == (
            202, {"status": "accepted", "alerts": {"canary": 1, "unknown": 1}},
        )  # fmt: skip
        assert (await made.states(), await made.events()) == ([], [])
        assert 'a110_alerts_total{outcome="canary"} 1.0' in (await made.http.get("/metrics")).text

    play(tmp_path, story)


def test_a_hook_switched_off_does_nothing(tmp_path: Path) -> None:
    """`enabled: false` is the deaf hook of a broken-link run."""
    raw = load().model_dump(by_alias=True, mode="json", exclude_none=True)
    raw["hooks"]["amm_invariant_breach"]["enabled"] = False

    async def story(made: Rig) -> None:
        await made.send(alert())
        assert await made.states() == []

    assert play(tmp_path, story, table=parse(json.dumps(raw), "table")).effects == []


def test_a_pretending_executor_records_success_and_does_nothing(tmp_path: Path) -> None:
    """A harness must notice that; the detail says so to whoever reads it."""

    async def story(made: Rig) -> None:
        await made.send(alert())
        assert await made.events() == [(event, "block_release") for event in ("accepted", "started", "succeeded")]

    assert play(tmp_path, story, pretend=("block_release",)).effects == []


def test_a_restarted_executor_takes_up_what_was_begun(tmp_path: Path) -> None:
    """A call was made and its answer lost with the process: the same key again, one effect, success and not skipped."""

    async def story(made: Rig) -> None:
        await made.settle()
        assert await made.states() == [("block_release", "succeeded")]
        await made.send(alert("resolved"))

    async def crash(made: Rig) -> None:
        store, body = made.executor.store, delivery(alert())

        def until_the_call() -> None:
            store.accept(webhook.parse(body), body)
            job = store.claim(())
            assert job is not None and store.begin(job, False)
            made.release.calls.append(("blocked", job.key))
            made.release.effects.append("blocked")
            made.release.keys.add(job.key)
            made.release.gate = "blocked"

        await made.executor.desk.do(until_the_call)

    release = play(tmp_path, crash)
    release = play(tmp_path, story, release)
    assert (release.gate, release.effects) == ("open", ["blocked", "open"])
    assert [what for what, _ in release.calls] == ["blocked", "blocked", "open"]


def test_a_store_that_fails_is_a_503_and_nothing_is_lost(tmp_path: Path) -> None:
    """Alertmanager sends again after a 5xx; the health says it too."""

    async def story(made: Rig) -> None:
        store = made.executor.store
        whole = store._now
        store._now = broken  # type: ignore[method-assign]
        answer = await made.http.post("/v1/alerts", content=delivery(alert()))
        assert (answer.status_code, answer.json()["error"]) == (503, "store_unavailable")
        store._now = whole  # type: ignore[method-assign]
        assert await made.states() == []
        await made.send(alert())
        assert await made.states() == [("block_release", "succeeded")]

    def broken() -> str:
        raise sqlite3.OperationalError("disk I/O error")

    play(tmp_path, story)


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        (b"", 400, "not JSON"),
        (b"[]", 400, "an object is expected"),
        (b'{"a": NaN}', 400, "NaN is not JSON"),
        (b"[" * 100_000, 400, "deeply"),
        (b"{}", 400, "version: Field required; groupKey: Field required; alerts: Field required"),
        (delivery(), 400, "alerts: List should have at least 1 item"),
        (delivery(alert("burning")), 400, "alerts.0.status"),
        (delivery(alert(), alert(starts_at="yesterday")), 400, "alerts.1.startsAt"),
        (delivery(alert(starts_at="2026-01-02T03:04:05")), 400, "alerts.0.startsAt"),
        (delivery(alert(fingerprint="x")), 400, "alerts.0.fingerprint"),
        (delivery(alert(market=3)), 400, "alerts.0.labels.market"),  # type: ignore[arg-type]
        (delivery(alert(market="\ud800")), 400, "alerts.0.labels.market"),
        (delivery(alert()).replace(b'"groupKey": "', b'"groupKey": "\\ud800'), 400, "groupKey"),
        (delivery(alert(name="")), 400, "alerts.0.labels.alertname"),
        (b" " * ((1 << 20) + 1), 413, "1048576"),
    ],
)
def test_a_malformed_delivery_is_refused_and_names_the_field(
    tmp_path: Path, body: bytes, status: int, said: str
) -> None:
    """And leaves nothing behind."""

    async def story(made: Rig) -> None:
        answer = await made.http.post("/v1/alerts", content=body)
        assert (answer.status_code, said in answer.json()["detail"]) == (status, True), answer.text
        assert await made.states() == []

    play(tmp_path, story)


def test_a_delivery_larger_than_other_services_take_is_taken(tmp_path: Path) -> None:
    """Alertmanager puts many alerts into one body."""
    many = [alert(fingerprint=f"{number:016x}", market="m" * 200) for number in range(300)]

    async def story(made: Rig) -> None:
        assert len(delivery(*many)) > 100_000
        answer = await made.http.post("/v1/alerts", content=delivery(*many))
        assert (answer.status_code, answer.json()["alerts"]) == (202, {"accepted": 300})
        await made.settle()

    assert play(tmp_path, story).effects == ["blocked"]


def test_the_audit_chain_notices_a_changed_and_a_missing_row(tmp_path: Path) -> None:
    """Rows cannot be changed through SQL at all; a forged copy breaks at its row."""

    async def story(made: Rig) -> None:
        await made.send(alert())
        rows = (await made.http.get("/v1/audit")).json()["rows"]
        assert audit.first_break(rows) is None
        assert audit.first_break(rows[1:], rows[0]["hash"], 1) is None
        assert audit.first_break([rows[0], {**rows[1], "detail": "nothing happened"}, rows[2]]) == 2
        assert audit.first_break([rows[0], rows[2]]) == 3
        db = made.executor.store._db
        for statement in ("UPDATE audit SET detail = 'x'", "DELETE FROM audit"):
            with pytest.raises(sqlite3.IntegrityError, match="audit rows stay"):
                db.execute(statement)

    play(tmp_path, story)
