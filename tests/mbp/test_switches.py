"""The release controller's switches: service mode and throttle, what they do to requests, what survives."""

from __future__ import annotations

import pytest

from mbp.release.app import build
from mbp.release.controller import Controller
from mbp.release.profiles import Profiles
from mbp.release.store import Store
from mbp.release.switches import Bucket
from tests.mbp.engines import Clocks, ask, refusal
from tests.mbp.test_release import Releases

AT = "2023-11-14T22:30:00.000000Z"


class Life:
    """One life of a controller, on clocks that a test moves."""

    def __init__(self, folder, clocks):
        self.clocks, self.releases = clocks, Releases()
        self.store = Store(folder / "release.sqlite3", clocks.wall())
        profiles = Profiles(folder / "profiles", kept=2)
        self.app = build(Controller(self.store, clocks.wall), self.releases, profiles, clock=clocks.monotonic)

    def ask(self, method, path, key=None, **options):
        return ask(self.app, method, path, headers={"Idempotency-Key": key} if key else {}, **options)

    def events(self):
        rows = self.ask("GET", "/release/audit").json()["rows"]
        return [(row["event"], row["before"], row["after"], row["reason"]) for row in rows]

    def sample(self, line):
        return f"\n{line}\n" in self.ask("GET", "/metrics").text


@pytest.fixture
def life(tmp_path):
    """A fresh controller."""
    made = Life(tmp_path, Clocks())
    yield made
    made.store.close()


def test_the_mode_is_normal_until_it_is_set(life, tmp_path):
    """Set, audited once, kept over a restart, and the same key gives the same answer again."""
    assert life.ask("GET", "/service").json() == {
        "mode": "normal",
        "reason": "",
        "changed_at": AT[:14] + "30:00.000000Z",
    }
    life.clocks.now += 60
    wanted = {"mode": "degraded", "reason": "lag"}
    shown = {**wanted, "changed_at": "2023-11-14T22:31:00.000000Z"}
    assert [life.ask("PUT", "/service/mode", "k", json=wanted).json() for _ in range(2)] == [shown, shown]
    assert life.ask("PUT", "/service/mode", "l", json=wanted).json() == shown
    assert life.sample("service_degraded 1.0")
    life.store.close()
    again = Life(tmp_path, life.clocks)
    assert again.ask("GET", "/service").json() == shown
    assert again.events() == [("mode", {"mode": "normal"}, {"mode": "degraded"}, "lag")]
    reused = again.ask("PUT", "/service/mode", "k", json={"mode": "normal"})
    assert refusal(reused) == (409, "idempotency_key_reused")
    again.store.close()


@pytest.mark.parametrize("body", [{}, {"mode": "off"}, {"mode": "normal", "more": 1}, {"mode": 1}])
def test_a_mode_that_is_none_is_refused(life, body):
    """422, and nothing changed."""
    assert life.ask("PUT", "/service/mode", json=body).status_code == 422
    assert life.events() == []


def test_requests_carry_the_mode_of_the_controller_only(life):
    """Upstream and on the answer; what a client says in the controller's marks is dropped."""
    for mode in ("normal", "degraded"):
        life.ask("PUT", "/service/mode", json={"mode": mode})
        sent = {"X-MBP-Mode": "other", "X-MBP-Shadow": "1"}
        answer = ask(life.app, "GET", "/v1/markets", headers=sent)
        headers = life.releases.seen[-1][3]
        assert (headers["x-mbp-mode"], answer.headers["x-mbp-mode"], "x-mbp-shadow" in headers) == (mode, mode, False)
    life.releases.down.add("candidate")
    assert ask(life.app, "GET", "/v1/markets").headers["x-mbp-mode"] == "degraded"


def test_a_throttle_answers_429_and_counts_it_apart(life):
    """Past the rate: 429 with Retry-After, no release asked, no 5xx; the bucket fills again with time."""
    life.ask("PUT", "/release/throttle", json={"rps": 3, "reason": "too slow"})
    codes = [life.ask("GET", "/v1/markets").status_code for _ in range(5)]
    assert codes == [201, 201, 201, 429, 429]
    refused = life.ask("GET", "/v1/markets")
    assert (refusal(refused), refused.headers["retry-after"]) == ((429, "throttled"), "1")
    assert len(life.releases.seen) == 3
    life.clocks.now += 0.7
    assert [life.ask("GET", "/v1/markets").status_code for _ in range(3)] == [201, 201, 429]
    assert life.sample('release_requests_total{class="429",release="none"} 4.0')
    assert life.sample('release_requests_total{class="5xx",release="candidate"} 0.0')
    assert life.ask("GET", "/release").json()["throttled"] is True


def test_a_throttle_ends_with_its_time(life):
    """Not throttled after it, in answers and for requests."""
    life.ask("PUT", "/release/throttle", json={"rps": 1, "ttl_s": 300})
    shown = life.ask("GET", "/release/throttle").json()
    assert shown == {
        "throttled": True,
        "rps": 1,
        "until": "2023-11-14T22:35:00.000000Z",
        "reason": "",
        "changed_at": AT,
    }
    life.clocks.now += 300
    assert life.ask("GET", "/release/throttle").json() == {**shown, "throttled": False, "rps": None, "until": None}
    assert {life.ask("GET", "/v1/markets").status_code for _ in range(5)} == {201}


def test_putting_the_release_back_lifts_the_throttle(life):
    """With its audit row; a rollback leaves it in force."""
    life.ask("PUT", "/release/throttle", json={"rps": 200, "reason": "hook"})
    life.ask("POST", "/release/rollback", json={"reason": "hook"})
    assert life.ask("GET", "/release").json()["throttled"] is True
    assert life.ask("PUT", "/release/status", json={"status": "candidate"}).json()["throttled"] is False
    off = {"on": False, "rps": None, "until": None, "ttl_s": None}
    on = {**off, "on": True, "rps": 200.0}
    events = life.events()
    assert [events[0], events[2]] == [
        ("throttle", off, on, "hook"),
        ("throttle", on, {**on, "on": False}, "status set to candidate"),
    ]
    assert [event[0] for event in events] == ["throttle", "rollback", "throttle", "status"]


def test_a_throttle_is_put_back_as_it_was_last(life):
    """`throttled` on takes the last rate; on without any rate is nothing; off twice leaves one row."""
    assert life.ask("PUT", "/release/throttle", json={"throttled": True}).json()["throttled"] is False
    life.ask("PUT", "/release/throttle", json={"rps": 5})
    for _ in range(2):
        assert life.ask("PUT", "/release/throttle", json={"throttled": False}).json()["rps"] is None
    assert life.ask("PUT", "/release/throttle", json={"throttled": True}).json()["rps"] == 5
    assert len(life.events()) == 3


@pytest.mark.parametrize("ended", ["by its time", "with the status"])
def test_a_throttle_that_was_to_end_is_put_back_to_end(life, ended):
    """For as long as it was given last: what is put back after an exercise must not outlive what was there before."""
    life.ask("PUT", "/release/throttle", json={"rps": 5, "ttl_s": 300})
    life.clocks.now += 300 if ended == "by its time" else 10
    life.ask("PUT", "/release/status", json={"status": "stable"})
    assert life.ask("GET", "/release").json()["throttled"] is False
    assert life.ask("PUT", "/release/throttle", json={"throttled": True}).json()["throttled"] is True
    rows = len(life.events())
    life.clocks.now += 200
    shown = life.ask("PUT", "/release/throttle", json={"throttled": True}).json()
    assert (shown["throttled"], shown["rps"], len(life.events())) == (True, 5, rows)  # as it is already: no longer
    life.clocks.now += 100
    assert life.ask("GET", "/release").json()["throttled"] is False


@pytest.mark.parametrize(
    "body",
    [
        {}, {"rps": 0}, {"rps": 1, "throttled": True}, {"rps": "x"}, {"rps": 1, "ttl_s": 0}, {"rps": True},
        {"rps": "5"}, {"rps": 1, "ttl_s": True}, {"throttled": None}, {"throttled": "on"},
    ],
)  # fmt: skip
def test_a_throttle_that_is_none_is_refused(life, body):
    """422, and nothing changed."""
    assert life.ask("PUT", "/release/throttle", json=body).status_code == 422
    assert life.events() == []


def test_a_slow_bucket_lets_one_through_in_its_time():
    """Under one a second: never two at once, and a clock that stands gives nothing."""
    bucket = Bucket(0.5, 1.0, 0.0)
    taken = [bucket.take(at) for at in (0.0, 0.0, 1.0, 2.0, 3.0, 10.0, 10.0)]
    assert taken == [True, False, False, True, False, True, False]


def test_profiles_are_kept_a_few_and_listed(life):
    """Of the release that serves; the oldest goes; one that could not be taken is a 502 that says why."""
    for _ in range(3):
        assert life.ask("POST", "/release/profile", json={"seconds": 1}).status_code == 502  # the fake answers 201
    life.releases.status, life.releases.text = 200, b"a;b 5\n"
    ids = [life.ask("POST", "/release/profile", json={"seconds": 1.5}).json()["id"] for _ in range(3)]
    assert ids == ["000001", "000002", "000003"]
    assert life.releases.seen[-1][:3] == ("candidate", "POST", "/profile?seconds=1.5")
    rows = [{"id": number, "release": "candidate", "bytes": 6} for number in ("000003", "000002")]
    assert life.ask("GET", "/release/profiles").json() == {"profiles": rows, "any": True}
    assert life.ask("GET", "/release/profiles/000003").text == "a;b 5\n"
    assert [life.ask("GET", f"/release/profiles/{name}").status_code for name in ("000001", "x")] == [404, 422]
    life.releases.down.add("candidate")
    assert refusal(life.ask("POST", "/release/profile", json={})) == (502, "no_profile")
