"""The leased fault: the door, the bias, the ways it ends, and that nothing stays behind."""

from __future__ import annotations

import asyncio
from fractions import Fraction

import pytest

from mbp.engine.__main__ import main
from mbp.engine.app import SWEEP_AT_MOST_S
from tests.mbp.engines import BEARER, Clocks, fault, open_market, refusal, running, swap


@pytest.fixture
def engine(tmp_path):
    """A fresh engine with its fault door open."""
    with running(tmp_path) as made:
        yield made


def put(engine, fault_id="f1", headers=BEARER, **body):
    """Ask for a fault."""
    return engine.ask("PUT", f"/faults/{fault_id}", json=fault(**body), headers=headers)


def faults(engine):
    """Return the faults in force."""
    return engine.ask("GET", "/faults", headers=BEARER).json()


def status(engine, market="sim-1"):
    """Return the status of a market."""
    return engine.ask("GET", f"/v1/markets/{market}").json()["status"]


def test_a_fault_opens_its_market_and_biases_only_that(engine):
    """Each swap in the fault's market is a breach of the asked size, named in the row; other markets are untouched."""
    open_market(engine, "resident")
    answer = put(engine)
    assert answer.status_code == 200
    assert answer.json() == {
        "id": "f1",
        "point": "engine.swap",
        "kind": "mutate",
        "run": "r1",
        "rev": 1,
        "params": {"market": "sim-1", "delta_k_ratio": "1.5e-9", "reserve": "1000"},
        "market": "sim-1",
        "rate": 1.0,
        "match": {},
        "seed": 0,
        "ttl_s": 10.0,
        "expires_at": "2023-11-14T22:30:10.000000Z",
        "hits": 0,
        "impacted": 0,
        "last_hit_at": None,
    }
    assert 'amm_invariant_error_total{market="sim-1"} 0.0' in engine.ask("GET", "/metrics").text
    rows = [swap(engine, "sim-1", side, action).json() for side in ("yes", "no") for action in ("buy", "sell")]
    honest = swap(engine, "resident").json()
    assert [(row["breach"], row["fault"]) for row in rows] == [(True, "f1")] * 4
    assert all(abs(Fraction(row["delta_k_ratio"]) + Fraction("1.5e-9")) < Fraction("1.5e-11") for row in rows)
    assert (honest["breach"], honest["fault"]) == (False, None)
    (listed,) = faults(engine)
    assert (listed["hits"], listed["impacted"], listed["last_hit_at"]) == (4, 4, "2023-11-14T22:30:00.000000Z")
    lines = engine.ask("GET", "/metrics").text.splitlines()
    for line in (
        'amm_invariant_error_total{market="sim-1"} 4.0',
        'amm_invariant_error_total{market="resident"} 0.0',
        'sim_fault_active{point="engine.swap"} 1.0',
        'sim_fault_hits_total{point="engine.swap"} 4.0',
    ):
        assert line in lines


def ended_by_delete(engine):
    """End the fault by its id."""
    assert engine.ask("DELETE", "/faults/f1", headers=BEARER).status_code == 204


def ended_by_run(engine):
    """End the fault by its run."""
    assert engine.ask("DELETE", "/faults?run=r1", headers=BEARER).status_code == 204


def ended_by_time(engine):
    """Let the lease run out, to the second."""
    engine.clocks.now += 10


@pytest.mark.parametrize("end", [ended_by_delete, ended_by_run, ended_by_time])
def test_an_ended_fault_leaves_nothing(engine, end):
    """However it ends: not listed, market closed, swap refused, no new hit, series gone, rows still in the audit."""
    put(engine)
    row = swap(engine, "sim-1").json()
    end(engine)
    assert refusal(swap(engine, "sim-1")) == (409, "market_closed")
    assert faults(engine) == []
    assert status(engine) == "closed"
    text = engine.ask("GET", "/metrics").text
    assert "sim-1" not in text
    assert 'sim_fault_active{point="engine.swap"} 0.0' in text
    assert 'sim_fault_hits_total{point="engine.swap"} 1.0' in text
    assert engine.ask("GET", "/v1/audit/swaps?market=sim-1").json()["rows"] == [row]


def test_a_lease_is_over_at_the_swap_itself(engine):
    """A swap that comes after the end finds the market closed although no timer ran; one just before is biased."""
    put(engine, ttl_s=5)
    engine.clocks.now += 4.999
    assert swap(engine, "sim-1").json()["fault"] == "f1"
    engine.clocks.now += 0.001
    assert refusal(swap(engine, "sim-1")) == (409, "market_closed")


def test_the_engine_ends_a_lease_although_nobody_asks(engine):
    """With the harness dead and no request coming, the engine's own timer closes the market in its store."""
    put(engine, ttl_s=5)
    engine.clocks.now += 5

    async def live():
        async with engine.app.router.lifespan_context(engine.app):
            await asyncio.sleep(SWEEP_AT_MOST_S * 3)

    asyncio.run(live())
    assert (len(engine.exchange.leases), engine.store.market("sim-1").status) == (0, "closed")


def test_the_same_put_renews_the_lease(engine):
    """The same id and body: 200, a later end, the next rev, the same market; the hits stay."""
    first = put(engine).json()
    swap(engine, "sim-1")
    engine.clocks.now += 8
    again = put(engine).json()
    engine.clocks.now += 8
    assert swap(engine, "sim-1").json()["fault"] == "f1"
    assert (first["rev"], again["rev"], again["hits"]) == (1, 2, 1)
    assert (first["expires_at"], again["expires_at"]) == ("2023-11-14T22:30:10.000000Z", "2023-11-14T22:30:18.000000Z")


def test_a_renewal_that_comes_late_does_not_revive(engine):
    """After the end, the same PUT is refused: its market was used, and an ended fault stays ended."""
    put(engine)
    engine.clocks.now += 10
    assert refusal(put(engine)) == (409, "market_exists")
    assert faults(engine) == []


@pytest.mark.parametrize(
    "other", [{"ratio": "2e-9"}, {"ttl_s": 11}, {"run": "r2"}, {"market": "sim-2"}, {"rate": 0.5}, {"seed": 1}]
)
def test_the_same_id_with_another_body_is_refused(engine, other):
    """A fault is not changed under way, and its lease is not renewed by the attempt."""
    put(engine)
    assert refusal(put(engine, **other)) == (409, "fault_differs")
    assert [(each["rev"], each["params"]["market"]) for each in faults(engine)] == [(1, "sim-1")]


def test_a_fault_never_takes_a_market_that_is_there(engine):
    """A market that exists, or that another fault has, is not the fault's to bias."""
    open_market(engine, "resident")
    put(engine)
    assert refusal(put(engine, "f2", market="resident")) == (409, "market_exists")
    assert refusal(put(engine, "f2", market="sim-1")) == (409, "market_exists")


def test_deleting_what_is_absent_is_no_error(engine):
    """DELETE is for a watchdog that knows nothing: 204 also when there is nothing, again and again."""
    for _ in range(2):
        assert engine.ask("DELETE", "/faults/none", headers=BEARER).status_code == 204
        assert engine.ask("DELETE", "/faults?run=none", headers=BEARER).status_code == 204


def test_a_run_takes_only_its_own_faults(engine):
    """DELETE by run leaves the faults of other runs in force."""
    put(engine, "f1", market="sim-1", run="r1")
    put(engine, "f2", market="sim-2", run="r2")
    put(engine, "f3", market="sim-3", run="r1")
    engine.ask("DELETE", "/faults?run=r1", headers=BEARER)
    assert [each["id"] for each in faults(engine)] == ["f2"]
    assert [status(engine, f"sim-{number}") for number in (1, 2, 3)] == ["closed", "open", "closed"]


def test_a_restart_leaves_no_fault(tmp_path):
    """After a kill the next life has no fault, its market is closed, and other markets are open."""
    clocks = Clocks()
    with running(tmp_path, clocks) as first:
        open_market(first, "resident")
        put(first)
        row = swap(first, "sim-1").json()
        with running(tmp_path, clocks) as second:
            assert faults(second) == []
            assert (status(second), status(second, "resident")) == ("closed", "open")
            assert refusal(swap(second, "sim-1")) == (409, "market_closed")
            assert second.ask("GET", "/v1/audit/swaps").json()["rows"] == [row]


def test_a_full_disk_does_not_keep_a_bias(engine):
    """When the closing cannot be stored, the bias is gone all the same, and the closing is stored when it can be."""
    put(engine)
    engine.store._db.execute("PRAGMA query_only=ON")
    assert refusal(engine.ask("DELETE", "/faults/f1", headers=BEARER)) == (503, "store_unavailable")
    assert refusal(swap(engine, "sim-1")) == (503, "store_unavailable")
    engine.store._db.execute("PRAGMA query_only=OFF")
    assert refusal(swap(engine, "sim-1")) == (409, "market_closed")
    assert engine.store.market("sim-1").status == "closed"


def test_a_share_of_the_swaps(engine):
    """A rate of one half changes about half of the swaps, the same ones for the same seed, and counts all as hits."""

    def run(number, seed):
        put(engine, f"f{number}", market=f"sim-{number}", rate=0.5, seed=seed)
        return [swap(engine, f"sim-{number}", amount="1").json()["breach"] for _ in range(40)]

    one, same, other = run(1, 7), run(2, 7), run(3, 8)
    assert one == same != other
    assert 10 < sum(one) < 30
    first = faults(engine)[0]
    assert (first["hits"], first["impacted"]) == (40, sum(one))


def test_a_deaf_engine_takes_the_fault_and_does_nothing(tmp_path):
    """The planted defect: accepted, listed, market open, and every swap honest and without a hit."""
    with running(tmp_path, deaf=True) as engine:
        assert put(engine).status_code == 200
        row = swap(engine, "sim-1").json()
        assert (row["breach"], row["fault"]) == (False, None)
        assert [(each["hits"], each["impacted"]) for each in faults(engine)] == [(0, 0)]


def test_the_door_is_shut_without_the_switch(tmp_path):
    """Off: every fault route is a 404, whatever the token, and the fault series do not exist."""
    with running(tmp_path, token=None) as engine:
        for method, path in (("PUT", "/faults/f1"), ("GET", "/faults"), ("DELETE", "/faults/f1"), ("GET", "/faults/")):
            assert refusal(engine.ask(method, path, json=fault(), headers=BEARER)) == (404, "not_found")
        assert "sim_fault" not in engine.ask("GET", "/metrics").text


@pytest.mark.parametrize(
    "headers", [{}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic YTpi"}, {"Authorization": "Bearer "}]
)
def test_the_door_wants_its_token(engine, headers):
    """A missing or wrong token is a 401, before the body is looked at."""
    answer = engine.ask("PUT", "/faults/f1", content=b"{", headers=headers)
    assert refusal(answer) == (401, "unauthorized")
    assert answer.headers["www-authenticate"] == "Bearer"
    assert faults(engine) == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"ttl_s": None},
        {"ttl_s": 0},
        {"ttl_s": 60.1},
        {"ttl_s": "10"},
        {"ttl_s": True},
        {"point": "cdc.apply"},
        {"kind": "delay"},
        {"run": ""},
        {"rate": 0},
        {"rate": 1.1},
        {"match": {"side": "yes"}},
        {"seed": -1},
        {"more": 1},
        {"ratio": "0"},
        {"ratio": "-1e-9"},
        {"ratio": "0.1"},
        {"ratio": 1.5e-9},
        {"ratio": "1e-99999"},
        {"market": "no market"},
    ],
)
def test_bad_faults_are_refused(engine, wrong):
    """A fault without an end, too long, too strong, or of an unknown kind: 422, and nothing in force."""
    body = fault(**wrong)
    if wrong == {"ttl_s": None}:
        del body["ttl_s"]
    assert refusal(engine.ask("PUT", "/faults/f1", json=body, headers=BEARER)) == (422, "invalid")
    assert faults(engine) == []
    assert engine.ask("GET", "/v1/markets").json() == {"markets": []}


def test_malformed_requests_at_the_door(engine):
    """Broken JSON is a 400; an id that is no label, a DELETE of no run and a wrong method have their codes."""
    headers = {**BEARER, "Content-Type": "application/json"}
    assert refusal(engine.ask("PUT", "/faults/f1", content=b'{"ttl_s": ', headers=headers)) == (400, "malformed")
    assert refusal(put(engine, "a%20b")) == (422, "invalid")
    assert refusal(engine.ask("DELETE", "/faults", headers=BEARER)) == (422, "invalid")
    assert refusal(engine.ask("POST", "/faults", json={}, headers=BEARER)) == (405, "method_not_allowed")
    assert refusal(engine.ask("PUT", "/faults/f1", content=b"x" * 70_000, headers=headers)) == (413, "body_too_large")


def test_faults_are_bounded(engine, monkeypatch):
    """No more than so many at once; an ended one makes room."""
    monkeypatch.setattr("mbp.engine.exchange.FAULTS_AT_ONCE", 2)
    put(engine, "f1", market="sim-1")
    put(engine, "f2", market="sim-2")
    assert refusal(put(engine, "f3", market="sim-3")) == (409, "too_many_faults")
    ended_by_delete(engine)
    assert put(engine, "f3", market="sim-3").status_code == 200


@pytest.mark.parametrize("value", ["false", "true", "on", "0", "yes", ""])
def test_only_1_opens_the_door(value, tmp_path, monkeypatch):
    """The switch is strict: what is not exactly `1` is off, so no token is asked for either."""
    built = []
    monkeypatch.setenv("SIM_FAULTS", value)
    monkeypatch.delenv("MBP_FAULT_TOKEN_FILE", raising=False)
    monkeypatch.setattr("mbp.engine.__main__.build", lambda _exchange, _store, token, _tracing: built.append(token))
    monkeypatch.setattr("mbp.engine.__main__.run", lambda _app, _port: 0)
    assert main(["--port", "1", "--data", str(tmp_path)]) == 0
    assert built == [None]


def test_on_without_a_token_does_not_start(tmp_path, monkeypatch, capsys):
    """The door is never open to everyone: no token file, or one that is too short, ends with code 2 and the cure."""
    monkeypatch.setenv("SIM_FAULTS", "1")
    monkeypatch.delenv("MBP_FAULT_TOKEN_FILE", raising=False)
    assert main(["--port", "1", "--data", str(tmp_path)]) == 2
    assert "MBP_FAULT_TOKEN_FILE is not set" in capsys.readouterr().err
    short = tmp_path / "token"
    short.write_text("short\n")
    monkeypatch.setenv("MBP_FAULT_TOKEN_FILE", str(short))
    assert main(["--port", "1", "--data", str(tmp_path)]) == 2
    assert "shorter than 16" in capsys.readouterr().err
    monkeypatch.setenv("MBP_FAULT_TOKEN_FILE", str(tmp_path / "none"))
    assert main(["--port", "1", "--data", str(tmp_path)]) == 2
    assert "cannot read" in capsys.readouterr().err


def test_the_switch_opens_the_door(tmp_path, monkeypatch):
    """`1` and a token file: the token is what the file says, without its newline, and one process holds the folder."""
    token = tmp_path / "token"
    token.write_text("a-long-enough-token\n")
    monkeypatch.setenv("SIM_FAULTS", "1")
    monkeypatch.setenv("MBP_FAULT_TOKEN_FILE", str(token))
    built, inner = [], []
    monkeypatch.setattr("mbp.engine.__main__.build", lambda _exchange, _store, token, _tracing: built.append(token))
    argv = ["--port", "1", "--data", str(tmp_path / "data")]
    first = iter([True])

    def run(_app, _port):
        if next(first, False):
            inner.append(main(argv))
        return 0

    monkeypatch.setattr("mbp.engine.__main__.run", run)
    assert main(argv) == 0
    assert (built, inner) == (["a-long-enough-token"], [2])
