"""The kill matrix: every step of a run × every way to be killed, odd targets, broken journals, and random plans.

The points number themselves (tests/live/matrix/victim.py): a new step of the story gets its kills by itself, and one
that no run comes to fails `test_every_step_is_a_point`. The oracle is the store's own list (matrix/bench.py).
"""

from __future__ import annotations

import ast
import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sim import undo
from tests.live.matrix import soak
from tests.live.matrix.bench import Bench
from tests.live.matrix.cases import (
    JOINED,
    KILLS,
    PROFILE,
    ROOM,
    ROOT,
    Case,
    Ended,
    accompanied,
    oddities,
    product,
    told,
)
from tests.live.matrix.store import ODD

pytestmark = [pytest.mark.alone, pytest.mark.timeout(600)]

#: Random plans that are played here; `make soak-kill` plays 500.
SEEDS = range(1, 13)

#: How much room there is: for each file of a run, or for what the journal is to take up.
DISKS = (
    *({"disk": size} for size in range(2000, 7600, 800)),
    *({"disk": 40_000, "room": room} for room in range(-40, 1600, 120)),
)

#: A run without a watchdog, killed under its faults: what the oracle must find.
CONTROL = Case(at="mark phase observe", how="SIGKILL", job={"no_watchdog": True})

#: Phases and records that these runs never come to, and why no fault can be in then, or which test kills there.
NOT_HERE = {
    "phase quiet": "before t0: waits for alerts, of which the store has none",
}


#: Exit code and faults of a recovery without room on the disk, of the next with room, and the gate then.
Full = tuple[int, list[str], int, list[str], str]


@dataclass(frozen=True)
class Played:
    """What became of every case."""

    dry: Ended
    joined: Ended
    kills: list[Ended]
    company: list[Ended]
    odd: list[Ended]
    random: list[Ended]
    disks: list[Ended]
    control: Ended
    second: tuple[int, str, dict[str, Any]]
    spoilt: dict[str, dict[str, Any]]
    full: list[Full]


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Played:
    """Play every case once, a few at a time."""
    return asyncio.run(_played(tmp_path_factory.mktemp("matrix")))


async def _played(folder: Path) -> Played:
    started = time.monotonic()
    async with Bench(folder).open() as bench:
        dry, joined = await bench.all([Case(), Case(faults=(JOINED,))])
        groups = (
            product(dry),
            accompanied(joined, dry),
            oddities(),
            [soak.case(seed) for seed in SEEDS],
            [Case(job=dict(disk)) for disk in DISKS],
            [CONTROL],
        )
        second = await _second(bench)
        cases = bench.all([case for group in groups for case in group])
        ended, spoilt, full = await asyncio.gather(cases, _spoilt(bench), _full(bench))
    shares: list[list[Ended]] = []
    for group in groups:
        shares.append(ended[: len(group)])
        ended = ended[len(group) :]
    cases_in_all = sum(map(len, shares)) + len(spoilt) + len(full)
    print(f"kill matrix: {len(dry.points)} points, {cases_in_all} cases, {time.monotonic() - started:.0f} s")
    kills, company, odd, chance, disks, control = shares
    return Played(dry, joined, kills, company, odd, chance, disks, control[0], second, spoilt, full)


async def _second(bench: Bench) -> tuple[int, str, dict[str, Any]]:
    """Start a second runner on the target of a first one that is at work; return how it ended, and the store's list."""
    address = await bench.space("shared")
    folder = bench.folder / "runs" / "first"
    long = {"faults": ["store.leased(duration=4)", "store.loose(duration=4)"], "hold": "full"}
    first = await bench.start({"id": "first", "folder": str(folder), "store": address, **long})
    while not (await bench.look("shared"))["faults"]:
        await asyncio.sleep(0.02)
    other = bench.folder / "runs" / "second"
    code = await (await bench.start({"id": "second", "folder": str(other), "store": address}))
    refused = [json.loads(line)["data"] for line in (other / "log.jsonl").read_text().splitlines()]
    why = [each["check"] for each in refused if each.get("ok") is False]
    assert await first == 0
    return code, ", ".join(why), await bench.look("shared")


# -- every step × every kill -----------------------------------------------------------------------------------------


def test_a_run_that_nobody_kills_passes(played: Played) -> None:
    """The stories that all kills are cut from: exit 0, nothing stays."""
    for dry in (played.dry, played.joined):
        assert (dry.code, told([dry])) == (0, [])


@pytest.mark.parametrize("how", KILLS)
def test_killed_at_every_point_nothing_stays(played: Played, how: str) -> None:
    """Unaided where somebody is left or the target holds a lease, else by `sim recover`; exit code as promised."""
    ended = [each for each in played.kills if each.case.how == how]
    watched = sum(there for _, there in played.dry.points)
    assert len(ended) == (watched if how == "watchdog" else len(played.dry.points))
    assert told(ended) == []


@pytest.mark.parametrize("how", [*KILLS, None])
def test_company_never_outlives_the_run(played: Played, how: str | None) -> None:
    """At each step of its own, and some of the fault's: it ends unaided, a deaf one by whoever is left to end it."""
    ended = [each for each in played.company if each.case.how == how]
    assert {each.case.deaf for each in ended} == ({True} if how is None else {True, False})
    assert told(ended) == []


def _said() -> set[str]:
    """Return the phases and the records of the journal that the source of the story can write."""
    found = set()
    for path in sorted((ROOT / "sim").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match node:
                case ast.Call(func=ast.Attribute(attr="say"), args=[ast.Constant(value=str(word)), *_]):
                    found.add(f"mark {word}" if "." in word else f"phase {word}")
                case ast.Call(
                    func=ast.Attribute(value=ast.Attribute(attr="journal") | ast.Name(id="journal"), attr="write"),
                    args=[ast.Constant(value=str(word)), *_],
                ):
                    found.add(f"journal {word}")
                case ast.Call(
                    func=ast.Attribute(value=ast.Attribute(attr="_journal"), attr="write"),
                    args=[ast.Constant(value=str(word)), *_],
                ):
                    found.add(f"journal {word}")
                case _:
                    pass
    return {each for each in found if not each.startswith("mark ")}


def test_every_step_is_a_point(played: Played) -> None:
    """Each phase and each record of the journal that stands in the source was killed at, before and after."""
    seen = {point for dry in (played.dry, played.joined) for point, _ in dry.points}
    said = _said()
    assert len(said) > 12, "the source does not look as this test believes"
    short = {point.removeprefix("mark ") for point in seen if point.startswith("mark phase ")}
    short |= {" ".join(point.split()[:2]) for point in seen if point.startswith("journal ")}
    assert said - short == set(NOT_HERE)
    killed = {each.case.at for each in (*played.kills, *played.company)}
    assert seen - killed == set()
    for point in [point for point in seen if point.endswith(" before")]:
        after = (point.removesuffix("before") + word for word in ("after", "answered"))
        assert seen & set(after), f"nothing comes after {point!r}"


@pytest.mark.parametrize("point", ["call {} {} {}", "journal {} 1 {}"], ids=["calls", "journal"])
def test_the_steps_of_a_fault_are_points(played: Played, point: str) -> None:
    """Each call of an injector before it is sent, sent and answered, each record before and after it is on the disk."""
    seen = {each for each, _ in played.dry.points}
    if point.startswith("call"):
        calls = ("prepare", "apply", "effective", "withdraw", "gone")
        pairs = [(call, name) for call in calls for name in ("leased", "loose")] + [("renew", "leased")]
        wanted = {point.format(*pair, when) for pair in pairs for when in ("before", "sent", "answered")}
    else:
        records = ("intent", "applied", "withdrawn")
        wanted = {point.format(record, when) for record in records for when in ("before", "after")}
    assert wanted - seen == set()


def test_the_oracle_sees_what_stays(played: Played) -> None:
    """Killed with no watchdog: the loose fault and the gate stay and are found, the leased one goes; recover cures."""
    found = [why.partition("-")[0] for why in played.control.left]
    assert found == ["loose", "the gate was not put back"]
    assert played.control.wrong == ("its journal is not finished",)


# -- odd targets -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("odd", ODD)
def test_whatever_a_target_does_nothing_stays(played: Played, odd: str) -> None:
    """At apply and at withdrawal, left alone and killed with the request under way, recovered later or at once."""
    ended = [each for each in played.odd if each.case.odd == odd]
    assert len(ended) >= 10
    assert told(ended) == []


def test_random_plans_killed_at_random_leave_nothing(played: Played) -> None:
    """A few seeds of what `make soak-kill` plays by the hundred."""
    assert told(played.random) == []


def test_two_runners_never_meet(played: Played) -> None:
    """The second is refused by name, injects nothing, and does not disturb the first."""
    code, why, store = played.second
    assert (code, why) == (4, "another runner")
    assert {"faults": store["faults"], "gate": store["gate"]} == {"faults": [], "gate": "open"}
    assert list(store["applies"].values()) == [1, 1]


# -- journals --------------------------------------------------------------------------------------------------------


def test_a_disk_that_fills_anywhere_leaves_nothing(played: Played) -> None:
    """Whichever line is the first that does not fit: nothing is injected without its intent, and nothing stays."""
    assert told(played.disks) == []


@dataclass(frozen=True)
class Project:
    """A project on the store, whose only run was killed, runner and watchdog, with both faults in."""

    folder: Path
    bench: Bench
    lines: list[bytes]
    space: str

    @property
    def journal(self) -> Path:
        """The journal of the killed run."""
        return self.folder / "runs" / "killed" / undo.FILE

    async def sim(self, *words: str) -> tuple[int, str]:
        """Run the command line; return its exit code and all it said."""
        environment = {**os.environ, "PYTHONPATH": f"{ROOM}{os.pathsep}{ROOT}"}
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "sim.cli", *words, cwd=self.folder, env=environment,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        said, _ = await asyncio.wait_for(process.communicate(), 60)
        assert process.returncode is not None
        return process.returncode, said.decode()

    async def faults(self) -> list[str]:
        """The kinds of fault that are in."""
        return sorted(name.partition("-")[0] for name in (await self.bench.look(self.space))["faults"])


async def project(bench: Bench, name: str) -> Project:
    """Make a project, and kill its run."""
    folder = bench.folder / name
    (folder / "scenarios" / "targets").mkdir(parents=True)
    (folder / "sim.toml").write_text("")
    address = await bench.space(name)
    profile = json.dumps(PROFILE).replace("${stack.store}", address)
    (folder / "scenarios" / "targets" / "killstore.yaml").write_text(profile)
    exercise = {"inject": ["store.leased()", "store.loose()"], "expect": "gate=='blocked'"}
    (folder / "scenarios" / "kill.yaml").write_text(json.dumps({"exercises": {"kill": exercise}}))
    where = folder / "runs" / "killed"
    job = {"id": name, "folder": str(where), "store": address, "at": "mark phase observe", "how": "everything"}
    assert await (await bench.start(job)) == -9
    return Project(folder, bench, (where / undo.FILE).read_bytes().splitlines(keepends=True), name)


def _changed(lines: Sequence[bytes], record: str, number: int, **fields: Any) -> list[bytes]:
    """Return the lines with these fields set in the `number`-th record of a kind."""
    made, count = [], 0
    for line in lines:
        said = json.loads(line)
        if said["record"] == record:
            count += 1
            said |= fields if count == number else {}
        made.append(json.dumps(said).encode() + b"\n")
    return made


EVIL = "../../../evil"


@dataclass(frozen=True)
class Defect:
    """A journal as it must not be: what is done to its lines, what recover answers, and which faults it leaves."""

    spoil: Callable[[list[bytes]], list[bytes]]
    code: int
    says: str
    stay: tuple[str, ...] = ()


DEFECTS = {
    "torn": Defect(lambda lines: [*lines, lines[-1][:20]], 0, "withdrawn and put back"),
    "duplicated": Defect(lambda lines: [line for line in lines for _ in range(2)], 0, "withdrawn and put back"),
    "written twice over": Defect(lambda lines: lines * 2, 0, "withdrawn and put back"),
    "foreign version": Defect(lambda lines: _changed(lines, "intent", 2, v=2), 6, "journal version 2", ("loose",)),
    "unknown record": Defect(lambda lines: [*lines, b'{"v":1,"record":"odd"}\n'], 6, "unknown record", ("loose",)),
    "nonsense": Defect(lambda lines: [b"nonsense\n", *lines], 6, "not a journal record", ("loose",)),
    "unknown injector": Defect(
        lambda lines: _changed(lines, "intent", 2, injector="store.gone"), 6, "unknown injector", ("loose",)
    ),
    "path traversal": Defect(
        lambda lines: _changed(lines, "intent", 2, injector=EVIL), 6, "unknown injector", ("loose",)
    ),
    "receipt of another": Defect(
        lambda lines: _changed(lines, "intent", 1, receipt={"fault": "../../other/faults/theirs"}), 0, "put back"
    ),
    "no receipt": Defect(lambda lines: _changed(lines, "intent", 1, receipt=None), 6, "cannot be used"),
    "unknown observer": Defect(
        lambda lines: _changed(lines, "restore", 1, spec={"kind": EVIL}), 6, "unknown observer"
    ),
}  # fmt: skip


async def _over(project: Project, defect: Defect) -> dict[str, Any]:
    marker = project.folder / "imported"
    (project.folder / "evil.py").write_text(f"open({str(marker)!r}, 'w').close()")
    await project.bench.space("other")
    project.journal.write_bytes(b"".join(defect.spoil(project.lines)))
    while "leased" in await project.faults():
        await asyncio.sleep(0.05)
    start = await project.sim("run", "kill", "--target", "killstore")
    runs = sorted(each.name for each in (project.folder / "runs").iterdir())
    first = await project.sim("recover")
    after = await project.faults()
    again = await project.sim("recover")
    return {
        "start": (start[0], runs),
        "recover": (first[0], defect.says in first[1] or first[1]),
        "stay": tuple(after),
        "again": (again[0], again[0] != 0 or again[1].strip()),
        "imported": marker.exists(),
    }


async def _spoilt(bench: Bench) -> dict[str, dict[str, Any]]:
    """Try every broken journal, a few at a time."""
    gate = asyncio.Semaphore(3)

    async def one(name: str, defect: Defect) -> dict[str, Any]:
        async with gate:
            return await _over(await project(bench, name.replace(" ", "-")), defect)

    found = await asyncio.gather(*(one(name, defect) for name, defect in DEFECTS.items()))
    return dict(zip(DEFECTS, found, strict=True))


@pytest.mark.parametrize("name", DEFECTS)
def test_a_broken_journal_is_never_guessed_at(played: Played, name: str) -> None:
    """Nothing starts over it; recover does what is certain, says what is not, and runs no code that a journal names."""
    defect = DEFECTS[name]
    assert played.spoilt[name] == {
        "start": (6, ["killed"]),
        "recover": (defect.code, True),
        "stay": defect.stay,
        "again": (defect.code, True if defect.code else "nothing is open"),
        "imported": False,
    }


async def _full(bench: Bench) -> list[Full]:
    """Recover a killed run on a disk with so much room left, and again on one with room enough."""

    async def one(room: int) -> Full:
        made = await project(bench, f"full-{room}")
        job = {"folder": str(made.journal.parent), "do": "recover", "store": ""}
        codes, faults = [], []
        for number, more in enumerate(({"room": room}, {})):
            codes.append(await (await bench.start({**job, "id": f"recover-{room}-{number}", **more})))
            faults.append(await made.faults())
        return codes[0], faults[0], codes[1], faults[1], (await bench.look(made.space))["gate"]

    return list(await asyncio.gather(*(one(room) for room in (0, 60, 150))))


def test_a_full_disk_keeps_no_fault_in_recovery(played: Played) -> None:
    """What cannot be written down is withdrawn all the same, and counts as open until it is: 6, then 0."""
    assert played.full == [(6, [], 0, [], "open")] * 3
