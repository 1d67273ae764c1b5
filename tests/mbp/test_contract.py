"""The contract probe against a real decision API and engine in the same process."""

from __future__ import annotations

import asyncio
import json
from itertools import product

import httpx
import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from mbp.contract.__main__ import KEPT, main
from mbp.contract.app import build as build_app
from mbp.contract.document import LOOKED_AT, Answer, Contract, ContractUnusable, Violation, shown
from mbp.contract.journeys import JOURNEYS, MARKET, Ask, judge
from mbp.contract.probe import EVERY_S, SAMPLES, HttpApi, Probe, Silent, Standing
from mbp.dec.app import build as build_dec
from sim.clock import run_virtual
from tests.mbp.engines import BEARER, TOKEN, Clocks, ask, running
from tests.mbp.test_dec import FREE, InProcess

CONTRACT = Contract.load(KEPT)
NAMES = [journey.name for journey in JOURNEYS]
STATUS = 'int_contract_status{contract="mbp.v1"}'


class Platform:
    """A candidate over an engine, and the way of the probe to it; `instead` may answer, or raise, for it."""

    def __init__(self, engine):
        self.clocks, self.instead, self.asked = Clocks(), None, []
        self.dec = build_dec(
            "candidate",
            InProcess(engine.app),
            limits=FREE,
            clock=self.clocks.monotonic,
            wall=self.clocks.wall,
            token=TOKEN,
        )
        self.probe = Probe(CONTRACT, self, wall=self.clocks.wall, clock=self.clocks.monotonic)

    async def send(self, asked):
        self.asked.append(asked)
        if self.instead is not None:
            found = self.instead(asked)
            if found is not None:
                return found
        transport = httpx.ASGITransport(app=self.dec)
        async with httpx.AsyncClient(transport=transport, base_url="http://api") as client:
            answer = await client.request(asked.method, asked.path, json=asked.body, headers=asked.headers)
        return Answer(answer.status_code, dict(answer.headers), answer.content)

    def steps(self, *names):
        """Go some journeys, all in order when none is named; return the outcomes."""

        async def go():
            return [await self.probe.step(each) for each in JOURNEYS if each.name in (names or NAMES)]

        return asyncio.run(go())

    def metric(self, name):
        """Return a sample as it is exported, None when there is none."""
        made = {
            f"{sample.name}{{{','.join(f'{key}={value!r}' for key, value in sample.labels.items())}}}".replace(
                "'", '"'
            ): sample.value
            for family in self.probe.registry.collect()
            for sample in family.samples
        }
        return made.get(name)

    def outcome(self, name):
        return self.metric(f'int_contract_samples_total{{contract="mbp.v1",outcome="{name}"}}')

    def fault(self, method="PUT", **params):
        body = {
            "point": "dec.answer",
            "kind": "mutate",
            "params": {"contract": "mbp.v1", **params},
            "ttl_s": 10,
            "run": "r1",
        }
        sent = {"json": body} if method == "PUT" else {}
        return ask(self.dec, method, "/faults/f1", headers=BEARER, **sent)


@pytest.fixture
def platform(tmp_path):
    """A platform whose contract is kept."""
    with running(tmp_path) as engine:
        yield Platform(engine)


def refusing(status, code, release="candidate"):
    """Return an answer that is an error."""
    headers = {"content-type": "application/json", "x-mbp-release": release}
    return Answer(status, headers, json.dumps({"error": code, "detail": "why"}).encode())


# -- the round ---------------------------------------------------------------------------------------------------------


def test_a_platform_that_keeps_its_contract_is_kept_after_one_round(platform):
    """Nothing is known before; then each journey is a sample, and one small swap is left in the probe's own market."""
    assert (platform.metric(STATUS), platform.probe.show()["status"]) == (None, "unknown")
    assert platform.steps(*NAMES[:-1]) == ["kept"] * 5
    assert platform.metric(STATUS) is None  # not every journey was gone
    assert platform.steps("refused") == ["kept"]
    assert (platform.metric(STATUS), platform.outcome("kept"), platform.outcome("violated")) == (1, 7, 0)
    shown = platform.probe.show()
    assert (shown["contract"], shown["status"], shown["violations"]) == ("mbp.v1", "kept", [])
    at = "2023-11-14T22:30:00.000000Z"
    statuses = {"open": 201, "quote": 200, "market": 200, "swap": 201, "list": 200, "unknown": 404, "refused": 422}
    assert shown["journeys"] == [
        {"name": name, "outcome": "kept", "status": status, "release": "candidate", "at": at}
        for name, status in statuses.items()
    ]


def test_the_probe_finds_its_market_again_and_keeps_the_pool_even(platform):
    """A probe that was started anew is told that its market exists, and goes on; swaps go to both sides in turn."""
    platform.steps()
    platform.probe = Probe(CONTRACT, platform, wall=platform.clocks.wall, clock=platform.clocks.monotonic)
    for _ in range(2):
        assert platform.steps() == ["kept"] * 6
    sides = [asked.body["side"] for asked in platform.asked if asked.path == "/v1/swaps"]
    market = ask(platform.dec, "GET", f"/v1/markets/{MARKET}").json()
    assert (market["swaps"], sorted(sides[1:])) == (3, ["no", "yes"])
    assert platform.metric(STATUS) == 1


BROKEN = {
    "retype_and_drop": [("$.fee", "present", "absent"), ("$.amount_out", 'type: "string"', "1.99596016")],
    "retype_field": [("$.amount_out", 'type: "string"', "1.99596016")],
    "drop_field": [("$.fee", "present", "absent")],
    "rename_field": [("$.amount_out", "present", "absent")],
}


@pytest.mark.parametrize("change", BROKEN)
def test_one_violating_answer_breaks_it_and_one_clean_round_mends_it(platform, change):
    """Each way to break a quote is seen at the next quote, told with path, expected, actual and who answered."""
    platform.steps()
    assert platform.fault(change=change).status_code == 200
    assert platform.steps("quote") == ["violated"]
    assert platform.metric(STATUS) == 0
    shown = platform.probe.show()
    found = {
        (each["path"], each["expected"].partition(":")[0], each["actual"][:3]): {
            key: each[key] for key in ("journey", "request", "status", "release", "at")
        }
        for each in shown["violations"]
    }
    where = {"journey": "quote", "request": "POST /v1/quotes", "status": 200, "release": "candidate"}
    where["at"] = "2023-11-14T22:30:00.000000Z"
    assert found == {(path, wanted.partition(":")[0], seen[:3]): where for path, wanted, seen in BROKEN[change]}
    assert shown["status"] == "violated"
    assert platform.steps() == ["violated", *["kept"] * 5]
    assert platform.fault("DELETE").status_code == 204
    assert platform.steps(*NAMES[:-1]) == ["kept"] * 5
    assert platform.metric(STATUS) == 1  # "refused" was kept after the last violation, too: a full round
    assert platform.outcome("violated") == 2


def test_a_release_that_ends_its_lease_is_whole_again(platform):
    """The fault ends by itself; other routes and refusals were never touched by it."""
    platform.fault()
    assert platform.steps() == ["violated", *["kept"] * 5]
    platform.clocks.now += 10.1
    assert platform.steps() == ["kept"] * 6
    assert ask(platform.dec, "GET", "/faults", headers=BEARER).json() == []


def raising(outcome):
    def instead(_):
        raise Silent(outcome)

    return instead


NO_SAMPLE = [
    ("timeout", raising("timeout")),
    ("no_answer", raising("no_answer")),
    ("throttled", lambda _: refusing(429, "throttled")),
    ("failed", lambda _: refusing(503, "overloaded")),
    ("failed", lambda _: Answer(502, {}, b"<html>")),
    ("refused", lambda _: refusing(409, "market_frozen")),
    ("refused", lambda _: refusing(409, "degraded")),
    ("refused", lambda _: refusing(422, "reserve_floor")),
]


@pytest.mark.parametrize(("outcome", "instead"), NO_SAMPLE)
def test_what_is_no_sample_neither_fires_nor_looks_green(platform, outcome, instead):
    """After it the status has no value; a violation before it stands for as long as anything is answered."""
    platform.steps()
    before = platform.outcome(outcome)
    platform.instead = lambda asked: instead(asked) if asked.path == "/v1/quotes" else None
    assert platform.steps("quote") == [outcome]
    assert (platform.metric(STATUS), platform.probe.show()["status"]) == (None, "unknown")
    assert platform.outcome(outcome) == before + 1
    platform.instead = None
    platform.steps("quote")
    assert platform.metric(STATUS) == 1
    platform.fault()
    platform.steps("quote")
    platform.instead = lambda asked: instead(asked) if asked.path == "/v1/quotes" else None
    platform.steps("quote")
    assert platform.metric(STATUS) == 0
    platform.instead = raising("no_answer")
    platform.steps()
    assert platform.metric(STATUS) is None


def test_a_platform_that_lost_its_data_is_given_its_market_again(platform):
    """Its own market unknown is a refusal, and the market is opened before the next journey."""
    platform.steps()
    platform.instead = lambda asked: refusing(404, "market_not_found") if asked.path == "/v1/quotes" else None
    assert platform.steps("quote", "market") == ["refused", "kept"]
    assert [asked.path for asked in platform.asked[-2:]] == ["/v1/markets", f"/v1/markets/{MARKET}"]


def test_a_market_that_cannot_be_opened_leaves_everything_unknown(platform):
    """No journey is gone, and none is a sample; a violating answer to the opening itself is a violation."""
    platform.instead = lambda _: refusing(503, "overloaded")
    assert platform.steps() == ["refused"] * 6
    assert (platform.metric(STATUS), {asked.path for asked in platform.asked}) == (None, {"/v1/markets"})
    mangled = Answer(201, {"content-type": "text/plain", "x-mbp-release": "candidate"}, b"")
    platform.instead = lambda asked: mangled if asked.body else None
    assert platform.steps("unknown") == ["kept"]
    assert platform.metric(STATUS) == 0


def test_each_journey_goes_once_a_round_spread_over_it():
    """On an absolute schedule, also when an answer takes its time; a probe that ended knows nothing."""

    class Slow:
        def __init__(self):
            self.sent = []

        async def send(self, asked):
            loop = asyncio.get_running_loop()
            self.sent.append((round(loop.time() - start, 3), asked.method + asked.path))
            await asyncio.sleep(0.2)
            return refusing(409, "market_exists") if asked.path == "/v1/markets" else refusing(503, "no")

    start = 0.0

    async def story():
        nonlocal start
        loop = asyncio.get_running_loop()
        api, start = Slow(), loop.time()
        probe = Probe(CONTRACT, api, wall=loop.time, clock=loop.time)
        task = asyncio.create_task(probe.run())
        await asyncio.sleep(2 * EVERY_S + 0.1)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return api.sent, probe.show()["status"]

    sent, status = run_virtual(story())
    quotes = [at for at, what in sent if what == "POST/v1/quotes"]
    assert quotes == [0.2, 2.5, 3.0, 5.5, 6.0]  # the first one waited for the market; "refused" is a quote as well
    assert (len(sent), status) == (14, "unknown")


# -- one answer --------------------------------------------------------------------------------------------------------

_QUOTES = json.loads(KEPT.read_text())["paths"]["/v1/quotes"]["post"]
ANSWERED = ", ".join(sorted(_QUOTES["responses"]))
DECIMAL = "a decimal with at most 9 decimals"
QUOTE = {"amount_out": "1.9", "fee": "0.002", "price_after": "0.5"}
SWAP = {
    "seq": 1, "at": "t", "market": MARKET, "side": "yes", "action": "buy", "amount_in": "1", "amount_out": "1.9",
    "fee": "0.002", "k_before": "1", "k_after": "1", "delta_k_ratio": "0", "delta_k_float": 0.0, "breach": False,
    "fault": None, "request_id": "contract-2", "trace_id": None,
}  # fmt: skip


def judged(name, status, body, headers=(), turn=2):
    """Judge an answer to a journey's ask."""
    journey = next(each for each in JOURNEYS if each.name == name)
    made = {"content-type": "application/json", "x-mbp-release": "stable", **dict(headers)}
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    kept = {key: value for key, value in made.items() if value is not None}
    return judge(CONTRACT, journey, journey.ask(turn), Answer(status, kept, raw))


NAN = shown('{"amount_out": "1", "fee": "0", "price_after": "0.5", "more": NaN}')
WRONG = [
    ("quote", 200, {**QUOTE, "fee": None}, (), [("$.fee", 'type: "string"', "null")]),
    ("quote", 200, {**QUOTE, "fee": "1e-3"}, (), [("$.fee", DECIMAL, '"1e-3"')]),
    ("quote", 200, {**QUOTE, "fee": "0.0000000001"}, (), [("$.fee", DECIMAL, '"0.0000000001"')]),
    ("quote", 200, {**QUOTE, "price_after": "1.5"}, (), [("$.price_after", "more than 0 and less than 1", '"1.5"')]),
    ("quote", 200, [], (), [("$", 'type: "object"', "[]")]),
    ("quote", 200, b"{", (), [("$", "JSON", '"{"')]),
    ("quote", 200, b"\xff", (), [("$", "JSON", '"\\\\xff"')]),
    ("quote", 200, b'{"amount_out": "1", "fee": "0", "price_after": "0.5", "more": NaN}', (), [("$", "JSON", NAN)]),
    ("quote", 200, b"[" * 100_000, (), [("$", "JSON", '"' + "[" * 118 + "…")]),
    ("quote", 400, {"error": "no_such_word", "detail": "d"}, (), [("status", "200", "400 no_such_word")]),
    ("quote", 200, QUOTE, {"content-type": "text/html; q=1"}, [("content-type", "application/json", "text/html")]),
    ("quote", 200, QUOTE, {"content-type": None}, [("content-type", "application/json", "none")]),
    ("quote", 200, QUOTE, {"x-mbp-release": None}, [("X-MBP-Release", "the name of a release", "absent")]),
    ("quote", 204, b"", (), [("status", f"one of {ANSWERED}", "204")]),
    ("quote", 404, {"error": "not_found", "detail": "x"}, (), [("status", "200", "404 not_found")]),
    ("quote", 422, {"error": "invalid", "detail": "x"}, (), [("status", "200", "422 invalid")]),
    ("swap", 201, {**SWAP, "side": "no"}, (), [("$.side", '"yes"', '"no"')]),
    ("swap", 201, {**SWAP, "request_id": "other"}, (), [("$.request_id", '"contract-2"', '"other"')]),
    ("swap", 201, {**SWAP, "amount_in": "2"}, (), [("$.amount_in", "1", '"2"')]),
    ("list", 200, {"markets": []}, (), [("$.markets", "at least the market that was opened", "[]")]),
    ("unknown", 404, {"error": "gone", "detail": "x"}, (), [("$.error", '"market_not_found"', '"gone"')]),
    ("unknown", 404, {"error": "market_not_found", "detail": ""}, (), [("$.detail", "a text", '""')]),
    ("unknown", 404, {"message": "x"}, (), [("$.error", "present", "absent"), ("$.detail", "present", "absent")]),
    ("refused", 200, QUOTE, (), [("status", "422", "200")]),
]  # fmt: skip


@pytest.mark.parametrize(("name", "status", "body", "headers", "found"), WRONG)
def test_an_answer_that_violates_is_told_with_path_expected_and_actual(name, status, body, headers, found):
    """Form by the document, meaning by the journey, headers and status as well."""
    assert judged(name, status, body, headers).violations == tuple(Violation(*each) for each in found)


@pytest.mark.parametrize(
    ("name", "status", "body"),
    [
        ("quote", 200, QUOTE),
        ("quote", 200, {**QUOTE, "new": 1}),
        ("swap", 201, {**SWAP, "amount_in": "1.0"}),
        ("unknown", 404, {"error": "market_not_found", "detail": "x", "trace_id": "1"}),
    ],
)
def test_a_field_that_is_added_violates_nothing(name, status, body):
    """A consumer ignores what it does not know; and a number may be spelled in another way."""
    assert judged(name, status, body).outcome == "kept"


def test_a_long_list_costs_no_more_than_its_beginning():
    """So many entries are looked at, and those after them are not."""
    with_bad = {"markets": [{"id": 1}] * (LOOKED_AT + 5)}
    paths = {
        found.path.partition(".id")[0] for found in judged("list", 200, with_bad).violations if ".id" in found.path
    }
    assert len(paths) == LOOKED_AT


# -- what stands -------------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.sampled_from(["a", "b", "open"]), st.sampled_from([*SAMPLES, "failed"])), max_size=14))
def test_what_stands_follows_from_the_whole_history(history):
    """Stated anew from the history alone: green only while every journey was last sampled and none is unmended."""
    standing = Standing(["a", "b"])
    for journey, outcome in history:
        standing.note(journey, outcome)
    last = dict(history)
    broken = max((at for at, (_, outcome) in enumerate(history) if outcome == "violated"), default=None)
    if broken is not None:
        since = history[broken + 1 :]
        mended = all((journey, "kept") in since for journey in ("a", "b"))
        broken = None if mended else broken
    if broken is not None:
        seen = [outcome for journey, outcome in last.items() if journey != "open"] + [history[-1][1]]
        expected = 0 if any(outcome in SAMPLES for outcome in seen) else None
    else:
        expected = 1 if all(last.get(journey) in SAMPLES for journey in ("a", "b")) else None
    assert standing.status == expected


def test_every_order_of_two_journeys_mends_alike():
    """It is mended by a kept answer of each, in any order, and by nothing less."""
    for order in product("ab", repeat=2):
        standing = Standing("ab")
        for journey, outcome in [("a", "kept"), ("b", "violated"), *((each, "kept") for each in order)]:
            standing.note(journey, outcome)
        assert standing.status == (1 if set(order) == {"a", "b"} else 0)


# -- service, wire and start -------------------------------------------------------------------------------------------


def test_over_a_socket_silence_is_told_apart_from_an_answer():
    """A closed port, a server that does not answer in time, and one that does."""

    async def story():
        async def quote(_):
            return web.json_response({"a": 1}, status=418, headers={"X-MBP-Release": "stable"})

        async def hang(_):
            await asyncio.sleep(30)

        app = web.Application()
        app.add_routes([web.post("/v1/quotes", quote), web.get("/hang", hang)])
        runner = web.AppRunner(app, shutdown_timeout=0.01)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        async with HttpApi(url, timeout_s=0.05) as api:
            answer = await api.send(Ask("POST", "/v1/quotes", {"market": "m"}))
            with pytest.raises(Silent, match="timeout"):
                await api.send(Ask("GET", "/hang"))
            await runner.cleanup()
            with pytest.raises(Silent, match="no_answer"):
                await api.send(Ask("GET", "/hang"))
        return answer

    answer = asyncio.run(story())
    assert (answer.status, answer.release, answer.body) == (418, "stable", b'{"a": 1}')


def test_the_service_shows_what_stands_and_is_unhealthy_without_its_probe():
    """The face of the probe: /contract, /metrics, and a health that does not lie."""
    app = build_app(CONTRACT, HttpApi("http://127.0.0.1:1"), wall=lambda: 0.0, clock=lambda: 0.0)

    async def story():
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://contract") as client:
            before = await client.get("/healthz")
            async with app.router.lifespan_context(app):
                during = await client.get("/healthz")
                shown = await client.get("/contract")
                metrics = await client.get("/metrics")
            after = await client.get("/healthz")
            return before.status_code, during.status_code, shown.json(), metrics.text, after.status_code

    before, during, shown, metrics, after = asyncio.run(story())
    assert (before, during, after) == (503, 200, 503)
    assert shown["status"] == "unknown"
    assert "\nint_contract_status" not in metrics


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"info": {"title": "x"}, "paths": {"/": {"get": {}}}}', '{"info": 1}']
)
def test_a_file_that_is_no_contract_is_refused_at_the_start(tmp_path, capsys, text):
    """Exit 2, and the reason."""
    path = tmp_path / "contract.json"
    path.write_text(text)
    with pytest.raises(ContractUnusable):
        Contract.load(path)
    assert main(["--port", "1", "--api", "http://127.0.0.1:1", "--contract", str(path)]) == 2
    assert capsys.readouterr().err.startswith("contract: ")
