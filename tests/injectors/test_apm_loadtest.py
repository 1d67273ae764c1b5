"""`apm.loadtest`: what the generator's record is believed for, and the injector against a small entry.

The generator itself runs in `tests/live/test_load.py`; here one stands in for it that sleeps, as a process of its own.
"""

from __future__ import annotations

import asyncio
import json
import math
import subprocess
import sys
import tempfile
from array import array
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import psutil
import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from injectors.apm import _load_child as child
from injectors.apm import loadtest
from injectors.apm._load_samples import Told, Unusable, merged, not_held, percentile, read, summary
from injectors.apm.loadtest import injector, mix
from sim.injector import InjectionError, Site
from sim.secret import Secrets
from sim.target import Door
from tests.injectors import fake_door

RATE = 100.0

#: Stands in for the generator: it keeps the lease as the real one does; what it would write is there already.
SLEEPER = """
import json, os, sys, time
folder = os.path.dirname(os.path.abspath(sys.argv[sys.argv.index("-f") + 1]))
with open(os.path.join(folder, "config.json")) as file:
    ttl_s = json.load(file)["ttl_s"]
lease, renewed, since = os.path.join(folder, "lease"), None, time.monotonic()
while time.monotonic() - since < ttl_s:
    try:
        found = os.stat(lease).st_mtime_ns
    except OSError:
        break
    renewed, since = found, since if found == renewed else time.monotonic()
    time.sleep(0.02)
"""


class Entry:
    """A platform's entry: a market, and a counter of requests."""

    def __init__(self):
        self.market, self.counted, self.series = 200, 0, True

    async def markets(self, _):
        return web.json_response({"id": "resident"}, status=self.market)

    async def metrics(self, _):
        lines = [
            f'release_requests_total{{class="2xx",release="candidate"}} {self.counted}.0',
            'release_requests_total{class="429",release="none"} 2.0',
            "other_total 7.0",
        ]
        return web.Response(text="\n".join(lines) + "\n" if self.series else "other_total 7.0\n")


@asynccontextmanager
async def serving(entry):
    """Give the door to an entry."""
    async with fake_door.serving(
        [web.get("/v1/markets/{id}", entry.markets), web.get("/metrics", entry.metrics)]
    ) as url:
        yield Door(url=url)


def load_processes():
    """Return the generators in this process's folder for what is temporary, whoever started them."""
    inside, found = f"{tempfile.gettempdir()}/sim-load-", []
    for process in psutil.process_iter():
        try:
            found += [process.pid for part in process.cmdline() if part.startswith(inside)][:1]
        except psutil.Error:
            continue
    return sorted(found)


@contextmanager
def stand_in():
    """Let the generator's stand-in be started in the generator's place."""
    whole = subprocess.Popen

    def begun(command, **options):
        if "locust" not in command:
            return whole(command, **options)
        written(options["cwd"], [(0.1, 0.1, 0.2, 200.0), (0.5, 0.5, 0.9, 200.0)])
        return whole([sys.executable, "-c", SLEEPER, *command[3:]], **options)

    child.subprocess.Popen = begun
    try:
        yield
    finally:
        child.subprocess.Popen = whole


@asynccontextmanager
async def fake_target():
    """For the contract: a door that counts, and a generator's stand-in; its state is what runs."""
    before = tempfile.tempdir
    with tempfile.TemporaryDirectory() as tempfile.tempdir, stand_in():
        try:
            async with serving(Entry()) as door:
                yield {"api": door}, {"rps": 20, "duration": "1m"}, load_processes
        finally:
            tempfile.tempdir = before


# -- what the record is believed for ---------------------------------------------------------------------------------


def told(
    seconds=10.0, *, rps=RATE, late=lambda i: 0.001, took=lambda i: 0.02, status=lambda i: 200, without=(), **more
):
    """Return what a generator would have told: arrival `i` is due at i/rps, leaves `late` and takes `took`."""
    count = int(rps * seconds)
    rows = [(i / rps, i / rps + late(i), i / rps + late(i) + took(i), status(i)) for i in range(count)]
    samples = [row_sample(*row) for i, row in enumerate(rows) if i not in without]
    given = {
        "rps": rps, "t0": 0.0, "at": seconds, "asked": count, "sent": count, "dropped": 0, "flying_most": 9,
        "concurrency": 1000, "final": "stopped", "samples": samples,
    }  # fmt: skip
    return Told(**{**given, **more})


def row_sample(due, sent, done, status):
    """Return a sample."""
    from injectors.apm._load_samples import Sample

    return Sample(due, sent, done, status)


def frozen(start, seconds):
    """Return how late arrivals leave when the generator stands still for so long from `start` on."""
    return lambda i: max(0.001, start + seconds - i / RATE) if start <= i / RATE < start + seconds else 0.001


#: (what happens, what is told, every reason why the load was not held)
MATRIX = [
    ("constant delay", told(), []),
    ("log-normal delay", told(took=lambda i: math.exp(math.sin(i * 12.9898) - 3)), []),
    # The server's fault, and the load's to report: arrivals leave on time and are answered late.
    ("server frozen 1 s", told(took=lambda i: 0.02 + max(0.0, 6 - i / RATE) * (i / RATE >= 5)), []),
    ("generator stopped 1 s", told(late=frozen(5, 1)), ["overall: schedule lag p99 900.0 ms (limit 10 ms)"]),
    (
        "client pool of 10",
        told(concurrency=10, flying_most=10),
        ["10 requests were in flight at once, as many as the client can hold"],
    ),
    (
        "cap 20 with drops",
        told(without=range(0, 1000, 10), dropped=100),
        [
            "100 arrivals were dropped: no room for them in the generator",
            "overall: 900 of 1000 arrivals were sent on time (90.0%)",
        ],
    ),
    ("cut by -t", told(seconds=4), []),
    (
        "SIGKILL: the last half second is lost",
        told(without=range(950, 1000), final=None),
        [
            "the generator ended without writing its last samples",
            "1000 arrivals were due, 950 are accounted for",
            "overall: 950 of 1000 arrivals were sent on time (95.0%)",
        ],
    ),
    ("dead port", told(status=lambda i: 0), []),
    (
        "overload: the schedule falls behind",
        told(late=lambda i: i * 0.0001),
        ["overall: schedule lag p99 98.9 ms (limit 10 ms)"],
    ),
    (
        "frozen for half a second in one window of three",
        told(seconds=90, late=frozen(40, 0.5)),
        ["30-60 s: schedule lag p99 200.0 ms (limit 10 ms)"],
    ),
    ("one arrival in the instant of the stop", told(without=[999]), []),
    ("nothing due yet", told(seconds=0), ["no arrival was due yet"]),
]


@pytest.mark.parametrize(("what", "seen", "reasons"), MATRIX, ids=[row[0] for row in MATRIX])
def test_what_incriminates_the_generator(what, seen, reasons):
    """Each way in which a load is not what was asked for is named; a slow or dead server is none of them."""
    assert not_held(seen) == reasons


def test_a_load_under_way_is_judged_by_what_is_due():
    """Nothing is final yet; arrivals in flight are accounted for; the lag limit follows the asserted limit."""
    flying = [row_sample(9.99, 9.996, math.inf, 0)]
    under_way = told(without=[999], final=None, flying=flying)
    assert not_held(under_way, so_far=True) == []
    assert not_held(told(late=lambda i: 0.006), 0.1) == ["overall: schedule lag p99 6.0 ms (limit 5 ms)"]


def test_the_figures_count_from_due_and_keep_what_was_never_answered():
    """A freeze shows in p99 from due; fast failures do not flatter; a request in flight is no zero."""
    seen = told(
        seconds=1,
        late=lambda i: 0.5 if i < 10 else 0.0,
        took=lambda i: 0.02,
        status=lambda i: 503 if i >= 50 else 200,
        without=[99],
        flying=[row_sample(0.99, 0.99, math.inf, 0)],
    )
    assert summary(seen) == {
        "asked": 100,
        "sent": 100,
        "dropped": 0,
        "in_flight": 1,
        "in_flight_most": 9,
        "achieved_rps": 100.0,
        "lag_p99_ms": 500.0,
        "statuses": {"200": 50, "503": 49},
        "error_ratio": 0.5,
        "p50_ms": 20.0,
        "p95_ms": 520.0,
        "p99_ms": 520.0,
        "p95_from_send_ms": 20.0,
        "p95_good_ms": 520.0,
    }


def test_two_workers_are_judged_as_one():
    """Their arrivals add up; one without its last words, or missing altogether, is a load not held."""
    whole = told()
    halves = [told(without=range(1 - n, 1000, 2), asked=500, sent=500) for n in (0, 1)]
    assert not_held(merged(halves)) == []
    assert summary(merged(halves)) == summary(whole)
    killed = merged([halves[0], told(without=range(1000), asked=500, sent=300, final=None)])
    assert not_held(killed)[0] == "the generator ended without writing its last samples"
    with pytest.raises(Unusable, match="no generator wrote anything"):
        merged([])


@given(st.lists(st.floats(0, 1e6), min_size=1), st.sampled_from([0.5, 0.95, 0.99]))
def test_a_percentile_is_one_of_the_values_and_enough_do_not_pass_it(values, share):
    """Nearest rank, against its definition."""
    found = percentile(values, share)
    assert found in values
    assert sum(value <= found for value in values) >= share * len(values)
    assert sum(value < found for value in values) < share * len(values)


def written(folder, rows, **state):
    """Write what a generator writes."""
    (folder / "samples.bin").write_bytes(array("d", [number for row in rows for number in row]).tobytes())
    whole = {
        "pid": 1, "t0": 0.0, "at": 1.0, "asked": 2, "sent": 2, "dropped": 0, "open": [], "flying_most": 1,
        "concurrency": 9, "final": None,
    }  # fmt: skip
    (folder / "state.json").write_text(json.dumps({**whole, **state}))


def test_a_record_is_read_up_to_its_state(tmp_path):
    """Samples newer than the state and a torn last one are left out; what is open then is in flight."""
    rows = [(0.1, 0.1, 0.2, 200), (0.5, 0.5, 0.9, 200), (1.5, 1.5, 1.6, 200), (9.0, 9.0)]
    written(tmp_path, rows, open=[[0.5, 0.5]])
    found = read(tmp_path, 2.0)
    assert [(s.due, s.status) for s in found.arrivals] == [(0.1, 200), (0.5, 0)]
    assert (found.asked, found.final) == (2, None)


def test_a_final_record_keeps_its_requests_in_flight(tmp_path):
    """They are samples that end never."""
    written(tmp_path, [(0.1, 0.1, 0.2, 200), (0.5, 0.5, math.inf, 0)], open=[[0.5, 0.5]], final="stopped")
    found = read(tmp_path, 2.0)
    assert (len(found.samples), summary(found)["in_flight"], not_held(found)) == (2, 1, [])


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"t0": "x"}'])
def test_a_record_that_cannot_be_read_is_no_record(tmp_path, text):
    """Said with what is wrong."""
    (tmp_path / "samples.bin").write_bytes(b"")
    (tmp_path / "state.json").write_text(text)
    with pytest.raises(Unusable, match="cannot be read"):
        read(tmp_path, 1.0)
    (tmp_path / "state.json").unlink()
    with pytest.raises(Unusable, match=r"has written no state\.json"):
        read(tmp_path, 1.0)


# -- the injector ----------------------------------------------------------------------------------------------------


def site(door):
    """Return where one injection works."""
    return Site("contract-9", "run", {"api": door}, Secrets({}), ttl_s=30.0)


def prepared(entry, **given):
    """Prepare against an entry, and return the receipt."""

    async def go():
        async with serving(entry) as door:
            return await injector.prepare(site(door), injector.params(rps=20, **given))

    return asyncio.run(go())


def test_prepare_counts_what_the_platform_has_passed():
    """The receipt names a folder that nobody has, the rate, and the count to compare with; nothing is made."""
    entry = Entry()
    entry.counted = 5
    found = prepared(entry)
    assert (found.receipt["passed"], found.receipt["duration_s"], found.receipt["rps"]) == (7.0, 300.0, 20.0)
    assert not Path(str(found.receipt["folder"])).exists()
    assert prepared(entry).receipt["folder"] != found.receipt["folder"]


@pytest.mark.parametrize(
    ("wrong", "said"), [({"market": 404}, "there is no market 'resident'"), ({"series": False}, "who counts the load?")]
)
def test_prepare_refuses_what_could_not_be_proven(wrong, said):
    """No market to trade in, or an entry that does not count."""
    entry = Entry()
    for name, value in wrong.items():
        setattr(entry, name, value)
    with pytest.raises(InjectionError, match=said.replace("?", r"\?")):
        prepared(entry)


def test_without_locust_there_is_one_clear_error(monkeypatch):
    """It is looked for, not imported."""
    monkeypatch.setattr(child.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InjectionError, match=r"Locust is not installed.*sim-harness\[load\]"):
        prepared(Entry())
    assert not {"locust", "gevent"} & set(sys.modules)


#: (what the generator tells, what the platform counted, whether the load is there, what is held against it)
EFFECTS = [
    (told(seconds=6), 600, True, []),
    (told(seconds=4), 600, False, []),
    (told(seconds=6, late=lambda i: 0.02), 600, False, ["overall: schedule lag p99 20.0 ms (limit 10 ms)"]),
    (told(seconds=6), 599, False, ["the platform counted 599 requests, the generator has 600 answers"]),
    (told(seconds=6, status=lambda i: 0), 600, False, ["nothing was answered yet"]),
    (told(seconds=6, status=lambda i: 429 if i % 2 else 503), 600, True, []),
    (
        told(seconds=6, status=lambda i: 429 if i % 2 or i == 0 else 200),
        600,
        False,
        ["301 of 600 answers were refusals (4xx): what is turned away at the door is no load"],
    ),
]


@pytest.mark.parametrize(("seen", "counted", "there", "against"), EFFECTS)
def test_the_load_is_there_when_it_was_held_and_received(monkeypatch, seen, counted, there, against):
    """Both sides say so, for the first five seconds of schedule."""
    monkeypatch.setattr(loadtest, "_told", lambda receipt: seen)
    entry = Entry()
    entry.counted = counted

    async def go():
        async with serving(entry) as door:
            return await injector.effective(site(door), {"rps": RATE, "passed": 2.0, "folder": "none"})

    probe = asyncio.run(go())
    assert (probe.holds, probe.evidence["not_held"]) == (there, against)


def test_a_load_that_nobody_saw_end_was_not_held(tmp_path):
    """Another process ended it: this one cannot say that it held."""
    probe = asyncio.run(injector.held(site(Door(url="http://x")), {"folder": str(tmp_path / "none")}))
    assert (probe.holds, probe.evidence) == (False, {"not_held": ["this process did not see the load end"]})


def test_a_renewal_does_not_revive(tmp_path):
    """A lease that was taken away stays away."""
    folder = tmp_path / "sim-load-r1-1-0123456789abcdef"
    folder.mkdir()
    with pytest.raises(InjectionError, match="taken away"):
        asyncio.run(injector.renew(site(Door(url="http://x")), {"folder": str(folder)}))
    assert list(folder.iterdir()) == []


FORGED = ["mine", "sim-load-r1-1", "../sim-load-r1-1-0123456789abcdef", "sim-load-link-0123456789abcdef"]


@pytest.mark.parametrize("name", FORGED)
def test_a_receipt_that_names_another_folder_harms_nobody(tmp_path, monkeypatch, name):
    """A journal that was tampered with: the folder stays, and whoever works in it; the fault is not called gone."""
    monkeypatch.chdir(tmp_path)
    kept = tmp_path / "mine"
    (kept / "0").mkdir(parents=True)
    (kept / "0" / "lease").write_text("not ours")
    (tmp_path / "sim-load-link-0123456789abcdef").symlink_to(kept)
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", f"{kept}/0"])
    try:
        for work in (injector.withdraw, injector.gone, injector.renew):
            for folder in (name, str(tmp_path / name)):
                with pytest.raises(InjectionError, match="no folder of a load"):
                    asyncio.run(work(site(Door(url="http://x")), {"folder": folder, "rps": 1}))
        assert (process.poll(), (kept / "0" / "lease").read_text()) == (None, "not ours")
    finally:
        process.kill()
        process.wait()


def test_whoever_reads_what_a_generator_says_is_not_ended_with_it(tmp_path):
    """`tail -f` on its output is somebody's, and no load that is left."""
    folder = tmp_path / "sim-load-r1-1-0123456789abcdef"
    (folder / "0").mkdir(parents=True)
    said = folder / "0" / "out.log"
    said.write_text("a word\n")
    with subprocess.Popen(["tail", "-f", str(said)], stdout=subprocess.PIPE, start_new_session=True) as reader:
        assert reader.stdout.readline() == b"a word\n"
        found = child.running(folder)
        asyncio.run(child.stop(folder))
        ended = reader.poll()
        reader.kill()
    assert (found, ended) == ([], None)


#: (what had ended the load when it was withdrawn, whether it was held)
ENDS = [(None, True), ("end of the schedule", True), ("stopped", False), ("the lease ran out", False)]


@pytest.mark.parametrize(("before", "holds"), ENDS)
def test_a_load_that_somebody_else_ended_was_not_held(tmp_path, monkeypatch, before, holds):
    """A polite kill, or a lease that ran out: what was seen after that was seen without a load."""
    folder = tmp_path / "sim-load-r1-1-0123456789abcdef"
    (folder / "0").mkdir(parents=True)
    rows = [(0.1, 0.1, 0.2, 200.0), (0.5, 0.5, 0.9, 200.0)]
    written(folder / "0", rows, final=before)

    async def stop(_):
        written(folder / "0", rows, final=before or "the lease was taken away")

    monkeypatch.setattr(child, "stop", stop)
    where, receipt = site(Door(url="http://x")), {"folder": str(folder), "rps": 2}
    asyncio.run(injector.withdraw(where, receipt))
    probe = asyncio.run(injector.held(where, receipt))
    said = [] if holds else [f"the load ended before it was withdrawn: {before}"]
    assert (probe.holds, probe.evidence["not_held"], folder.exists()) == (holds, said, False)
    assert loadtest._before == {}


@pytest.mark.parametrize(
    "given", [{"rps": 0}, {"rps": "x"}, {"rps": 1, "journey": "fly"}, {"rps": 1, "market": "../x"}]
)
def test_bad_arguments_are_refused(given):
    """Before anything is asked of a target."""
    with pytest.raises(ValidationError):
        injector.params(**given)


def test_the_mix_keeps_the_price_even():
    """Yes and no in turn, three quotes to a swap, swaps on both sides alike."""
    sent = mix("mixed", "m")
    swaps = [each["json"]["side"] for each in sent if each["path"] == "/v1/swaps"]
    assert (len(sent), sorted(swaps)) == (8, ["no", "yes"])
    assert {each["path"] for each in mix("quote", "m")} == {"/v1/quotes"}
    assert {each["path"] for each in mix("swap", "m")} == {"/v1/swaps"}


def test_nothing_of_ours_imports_the_generator():
    """Importing it patches the sockets of the whole process."""
    code = (
        "import pkgutil, importlib, sys\n"
        "import sim, injectors, expectations, reports\n"
        "for room in (injectors, expectations, reports):\n"
        "    for found in pkgutil.walk_packages(room.__path__, room.__name__ + '.'):\n"
        "        importlib.import_module(found.name)\n"
        "print(sorted({'locust', 'gevent'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert found.stdout == "[]\n"
