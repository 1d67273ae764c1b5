"""The observer of a Prometheus, against recorded answers of a real one."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

import pytest
from aiohttp import web
from fake_http import serve

from expectations import _promql
from expectations._promql import Queries
from expectations.observers.prometheus import Config, Outgoing, observer
from sim.observation import CannotLook, HasClock, Observation, Opening
from sim.secret import Secrets
from sim.target import Fact

ACTIVE = "2026-11-23T13:56:34.651810036Z"
LATER = {"alertname": "Later", "job": "self", "owner": "SRE"}
FIRED = 1795442197.651  # what Alertmanager 0.25 said of this very alert


def alert(labels, state, active=ACTIVE):
    return {"labels": labels, "annotations": {}, "state": state, "activeAt": active, "value": "1e+00"}


def ok(data):
    return {"status": "success", "data": data}


def rules(for_s, every_s, *alerts):
    rule = {"name": "Later", "type": "alerting", "duration": for_s, "alerts": list(alerts)}
    return ok({"groups": [{"name": "g", "interval": every_s, "rules": [rule]}]})


class Server:
    """What the fake Prometheus shows."""

    def __init__(self):
        self.routes = {
            "GET /api/v1/alerts": ok({"alerts": []}),
            "GET /api/v1/status/config": ok({"yaml": "global:\n  external_labels:\n    zone: z1\n"}),
            "GET /api/v1/rules": rules(0, 0.5),
            "GET /api/v1/query": self.query,
        }
        self.answers = {"time()": {"resultType": "scalar", "result": [FIRED + 1, str(FIRED + 1)]}}

    def show(self, *alerts):
        self.routes["GET /api/v1/alerts"] = ok({"alerts": list(alerts)})

    async def query(self, request):
        found = self.answers.get(request.query["query"])
        if found is None:
            return web.json_response({"status": "error", "error": "parse error"}, status=400)
        if isinstance(found, int):
            return web.json_response({"error": "no"}, status=found)
        return web.json_response(ok(found))


@asynccontextmanager
async def opened(server, facts=None, auth=None, environ=None, **config):
    async with serve(server.routes) as fake:
        made = {name: Fact.model_validate({"from": "prom", **fact}) for name, fact in (facts or {}).items()}
        opening = Opening("prom", Config(url=fake.url, auth=auth, **config), made, Secrets(environ or {}))
        async with observer.open(opening) as opened_:
            yield opened_, fake


def seen(state, starts_at=FIRED, labels=LATER, mark="f6bbd3e7dd4ebe89", occurred=...):
    data = {
        "name": labels["alertname"],
        "labels": {"zone": "z1", **labels},
        "fingerprint": mark,
        "starts_at": starts_at,
        "state": state,
    }
    when = (None if state == "resolved" else starts_at) if occurred is ... else occurred
    return Observation("alert", data, when)


def test_each_change_of_an_alert_is_told_once_with_alertmanagers_identity():
    """Pending, firing and resolved are one event each; startsAt of a rule with `for` is read off the ALERTS series."""

    async def main():
        server = Server()
        async with opened(server) as (prometheus, fake):
            assert await prometheus.poll() == []
            server.show(alert(LATER, "pending"))
            assert await prometheus.poll() == [seen("pending", 1795442194.651)]
            assert await prometheus.poll() == []
            server.show(alert(LATER, "firing"))
            server.routes["GET /api/v1/rules"] = rules(3, 0.5, alert(LATER, "firing"))
            # One evaluation was missed: it began to fire half a second later than `for` says.
            values = [[FIRED - 300, "1"], [FIRED + 0.5, "1"], [FIRED + 1, "1"]]
            metric = {"__name__": "ALERTS", "alertstate": "firing", **LATER}
            server.answers['ALERTS{alertname="Later",alertstate="firing"}[9s]'] = {
                "resultType": "matrix",
                "result": [
                    {"metric": {**metric, "job": "other"}, "values": [[FIRED, "1"]]},
                    {"metric": metric, "values": values},
                ],
            }
            assert await prometheus.poll() == [seen("firing", FIRED + 0.5)]
            before = len(fake.asked)
            assert await prometheus.poll() == []
            assert [line for line, _ in fake.asked[before:]] == ["GET /api/v1/alerts"]
            server.show()
            assert await prometheus.poll() == [seen("resolved", FIRED + 0.5)]

    asyncio.run(main())


def test_without_the_alerts_series_starts_at_is_active_at_plus_whole_evaluations():
    """Where ALERTS cannot be had, `for` is rounded up to whole evaluations; without `for` it is activeAt itself."""

    async def main(for_s):
        server = Server()
        server.show(alert(LATER, "firing"))
        server.routes["GET /api/v1/rules"] = rules(for_s, 0.5, alert(LATER, "firing"))
        async with opened(server) as (prometheus, _):
            (observation,) = await prometheus.poll()
            return observation.data["starts_at"]

    assert asyncio.run(main(0)) == 1795442194.651
    assert asyncio.run(main(3)) == FIRED
    assert asyncio.run(main(2.6)) == FIRED


def test_a_second_episode_between_two_looks_is_an_end_and_a_beginning():
    """The same labels with a new activeAt: resolved first, then firing."""

    async def main():
        server = Server()
        server.show(alert(LATER, "firing"))
        async with opened(server) as (prometheus, _):
            first = await prometheus.poll()
            server.show(alert(LATER, "firing", "2026-11-23T13:57:00Z"))
            return first, await prometheus.poll()

    first, second = asyncio.run(main())
    assert first == [seen("firing", 1795442194.651)]
    assert second == [seen("resolved", 1795442194.651), seen("firing", 1795442220.0)]


def test_two_rules_that_make_the_same_alert_are_one_alert():
    """Alertmanager merges equal label sets: the one that fires counts, and of two the older."""

    async def main():
        server = Server()
        server.show(alert(LATER, "pending", "2026-11-23T13:50:00Z"), alert(LATER, "firing"))
        async with opened(server) as (prometheus, _):
            return await prometheus.poll()

    assert asyncio.run(main()) == [seen("firing", 1795442194.651)]


def test_a_failed_look_forgets_nothing():
    """What changed is told at the next look that succeeds, not lost with the one that failed."""

    async def main():
        server = Server()
        async with opened(server) as (prometheus, _):
            await prometheus.poll()
            server.show(alert(LATER, "firing"))
            server.routes["GET /api/v1/status/config"] = (503, {})
            with pytest.raises(CannotLook, match="503"):
                await prometheus.poll()
            server.routes["GET /api/v1/status/config"] = ok({"yaml": "global: {external_labels: {zone: z1}}"})
            return await prometheus.poll()

    assert asyncio.run(main()) == [seen("firing", 1795442194.651)]


def test_labels_are_those_that_leave_prometheus():
    """External labels are added where the alert has none of that name; label drops apply; empty labels are none."""
    configuration = """
global: {external_labels: {zone: z1, replica: a, owner: nobody}}
alerting: {alert_relabel_configs: [{action: labeldrop, regex: repl.*}, {source_labels: [x], action: replace}]}
"""
    outgoing = Outgoing.of(configuration)
    assert outgoing.labels({"alertname": "A", "owner": "SRE", "gone": ""}) == {
        "alertname": "A",
        "owner": "SRE",
        "zone": "z1",
    }
    with pytest.raises(CannotLook, match="not a Prometheus configuration"):
        Outgoing.of("- a list")


def test_gauges_are_sampled_at_each_look_and_no_data_is_never_a_number():
    """One number is a value; none, several, NaN, infinity and a refused query are null with their reason."""
    series = {"metric": {}, "value": [1, "2.5"]}
    queries = {
        "one": ({"resultType": "vector", "result": [series]}, 2.5, None),
        "scalar": ({"resultType": "scalar", "result": [1, "7"]}, 7.0, None),
        "none": ({"resultType": "vector", "result": []}, None, "no data: the query yields no series"),
        "two": (
            {"resultType": "vector", "result": [series] * 2},
            None,
            "ambiguous: the query yields 2 series, not one",
        ),
        "nan": ({"resultType": "vector", "result": [{"value": [1, "NaN"]}]}, None, "not a number: NaN"),
        "inf": ({"resultType": "scalar", "result": [1, "+Inf"]}, None, "not a number: +Inf"),
        "range": (
            {"resultType": "matrix", "result": [{"values": [[1, "2"]]}]},
            None,
            "not a number: the query yields a range or a histogram",
        ),
        "bad": (None, None, '400 {"status": "error", "error": "parse error"}'),
    }

    async def main():
        server = Server()
        server.answers.update({name: answer for name, (answer, _, _) in queries.items()})
        facts = {name: {"kind": "gauge", "query": name} for name in queries}
        async with opened(server, facts) as (prometheus, _):
            return await prometheus.poll(), await prometheus.poll()

    expected = [
        Observation("gauge", {"fact": name, "value": value, **({} if value is not None else {"reason": reason})})
        for name, (_, value, reason) in queries.items()
    ]
    assert asyncio.run(main()) == (expected, expected)


def test_state_facts_are_told_when_they_change():
    """A state by query is an event only at the first look and at a change; no data is null."""

    async def main():
        server = Server()
        server.answers["up"] = {"resultType": "vector", "result": [{"metric": {}, "value": [1, "1"]}]}
        async with opened(server, {"up": {"kind": "state", "query": "up"}}) as (prometheus, _):
            looks = [await prometheus.poll(), await prometheus.poll()]
            server.answers["up"] = {"resultType": "vector", "result": []}
            return [*looks, await prometheus.poll()]

    first, second, third = asyncio.run(main())
    assert first == [Observation("state", {"fact": "up", "value": 1})]
    assert second == []
    assert third == [Observation("state", {"fact": "up", "value": None})]


def test_a_refused_token_or_a_dead_server_is_blindness_with_its_cause():
    """The query path says it as clearly as the others, fails at once, and follows no redirect."""

    async def main():
        server = Server()
        server.answers["q"] = 401
        server.answers["time()"] = 503
        facts = {"g": {"kind": "gauge", "query": "q"}}
        async with opened(server, facts, auth="env:PROM_TOKEN", environ={"PROM_TOKEN": "s3cret"}) as (prometheus, fake):
            with pytest.raises(CannotLook) as refused:
                await prometheus.poll()
            assert fake.headers[0]["Authorization"] == "Bearer s3cret"
            with pytest.raises(CannotLook, match="503"):
                await prometheus.source_time()

            async def elsewhere(request):
                raise web.HTTPFound("/api/v1/alerts")

            server.routes["GET /api/v1/query"] = elsewhere
            with pytest.raises(CannotLook, match=": 302 "):
                await prometheus.source_time()
            url = fake.url
        return str(refused.value).replace(url, "URL"), url

    message, url = asyncio.run(main())
    assert message == 'GET URL/api/v1/query: 401 {"error": "no"} (check auth: env:PROM_TOKEN)'
    dead = Queries(url, None, Secrets({}))
    with pytest.raises(CannotLook, match="connection refused"):
        dead.time()
    dead.close()


def test_something_else_at_the_address_is_not_a_server_that_is_down(monkeypatch):
    """A page for logging in, or an answer without end: somebody is there, and it is no Prometheus."""
    monkeypatch.setattr(_promql, "MAX_BODY", 1000)

    async def main(body):
        async def page(request):
            return web.Response(text=body)

        server = Server()
        server.routes["GET /api/v1/query"] = page
        async with opened(server, {}) as (prometheus, _):
            with pytest.raises(CannotLook) as told:
                await prometheus.source_time()
        return told.value.__cause__.kind, str(told.value).partition("/query: ")[2]

    assert [asyncio.run(main(body)) for body in ("<html>login</html>", "x" * 2000)] == [
        ("content", "200, but the body is no JSON (Expecting value: line 1 column 1 (char 0))"),
        ("content", "the answer is larger than 1000 bytes"),
    ]


def test_the_servers_clock_is_read():
    """The observer has a clock with milliseconds."""

    async def main():
        async with opened(Server()) as (prometheus, _):
            assert isinstance(prometheus, HasClock)
            return await prometheus.source_time()

    assert asyncio.run(main()) == FIRED + 1


def test_a_fact_without_a_query_is_refused_when_opened():
    """A gauge that nobody could read is an error of the profile, not a silent gap."""

    async def main():
        async with opened(Server(), {"g": {"kind": "gauge"}}):
            pass

    with pytest.raises(ValueError, match=r"facts.g: the prometheus observer prom needs a query"):
        asyncio.run(main())
