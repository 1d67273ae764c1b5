"""The HTTP API, answer for answer."""

from __future__ import annotations

import asyncio
import io
import json
import socket

import pytest

from tests.injectors.proxy.world import within

UP = "127.0.0.1:9"
LATENCY = {"attributes": {"latency": 5, "jitter": 0}, "name": "slow", "type": "latency", "stream": "upstream"}


def answers(*calls):
    """Return what a server without proxies answers to `calls`, one after the other."""

    async def story(here):
        return [await here.call(*call) for call in calls]

    return within(story, bare=True)


def bare(proxy):
    """Return a proxy as answered, without what Toxiproxy has not."""
    return {key: value for key, value in proxy.items() if key != "stats"}


def error(status, text):
    return status, {"error": text, "status": status}


def test_a_proxy_from_beginning_to_end():
    """201, 200, 204 and the bodies; port 0 and a missing host come back as the real loopback address."""

    async def story(here):
        status, made = await here.call("POST", "/proxies", {"name": "db", "upstream": UP})
        assert status == 201
        host, port = made["listen"].split(":")
        assert (host, int(port) > 0) == ("127.0.0.1", True)
        shown = {"name": "db", "listen": made["listen"], "upstream": UP, "enabled": True, "toxics": []}
        assert bare(made) == shown
        assert bare((await here.call("GET", "/proxies/db"))[1]) == shown
        status, listed = await here.call("GET", "/proxies")
        assert (status, {key: bare(each) for key, each in listed.items()}) == (200, {"db": shown})
        for method in ("PATCH", "POST"):
            status, off = await here.call(method, "/proxies/db", {"enabled": False, "name": "other"})
            assert (status, bare(off)) == (200, {**shown, "enabled": False})
            status, on = await here.call(method, "/proxies/db", {"enabled": True})
            assert (status, bare(on)) == (200, shown)
        assert await here.call("DELETE", "/proxies/db") == (204, "")
        assert await here.call("GET", "/proxies/db") == error(404, "proxy not found")
        assert await here.call("GET", "/proxies") == (200, {})

    within(story, bare=True)


def test_a_toxic_from_beginning_to_end():
    """200, 200, 204; name, stream and toxicity have defaults; an update merges attributes and nothing else."""

    async def story(here):
        assert await here.call("GET", "/proxies/p/toxics") == (200, [])
        made = {"type": "latency", "attributes": {"latency": 5}}
        shown = {**LATENCY, "name": "latency_downstream", "stream": "downstream", "toxicity": 1}
        assert await here.call("POST", "/proxies/p/toxics", made) == (200, shown)
        there = "/proxies/p/toxics/latency_downstream"
        assert await here.call("GET", there) == (200, shown)
        change = {"attributes": {"jitter": 2}, "toxicity": 0.25, "name": "x", "type": "timeout", "stream": "upstream"}
        shown = {**shown, "attributes": {"latency": 5, "jitter": 2}, "toxicity": 0.25}
        assert await here.call("PATCH", there, change) == (200, shown)
        assert await here.call("POST", there, {}) == (200, shown)
        up = {**LATENCY, "toxicity": 1}
        assert await here.call("POST", "/proxies/p/toxics", LATENCY) == (200, up)
        assert await here.call("GET", "/proxies/p/toxics") == (200, [up, shown])
        assert (await here.call("GET", "/proxies/p"))[1]["toxics"] == [up, shown]
        assert await here.call("DELETE", there) == (204, "")
        assert await here.call("DELETE", there) == error(404, "toxic not found")
        assert await here.call("GET", "/proxies/p/toxics") == (200, [up])

    within(story)


@pytest.mark.parametrize(
    "kind, attributes",
    [
        ("latency", {"latency": 0, "jitter": 0}),
        ("bandwidth", {"rate": 0}),
        ("slow_close", {"delay": 0}),
        ("timeout", {"timeout": 0}),
        ("reset_peer", {"timeout": 0}),
        ("slicer", {"average_size": 0, "size_variation": 0, "delay": 0}),
        ("limit_data", {"bytes": 0}),
        ("noop", {}),
        ("hold_connect", {"delay": 0}),
    ],
)
def test_every_kind_with_its_attributes(kind, attributes):
    """Each kind is taken without attributes, and shows its own; those it does not have are ignored."""
    given = {"type": kind, "attributes": {"unheard_of": "x"}}
    shown = {"attributes": attributes, "name": f"{kind}_downstream", "type": kind, "stream": "downstream"}
    calls = ("POST", "/proxies", {"name": "p", "upstream": UP}), ("POST", "/proxies/p/toxics", given)
    assert answers(*calls)[1] == (200, {**shown, "toxicity": 1})


A = {"name": "a", "upstream": UP}
BAD = "bad request body: "


@pytest.mark.parametrize(
    "body, wrong",
    [
        ({"upstream": UP}, (400, "missing required field: name")),
        ({"name": "", "upstream": UP}, (400, "missing required field: name")),
        ({"name": "a"}, (400, "missing required field: upstream")),
        (None, (400, BAD + "EOF")),
        ([], (400, BAD + "json: cannot unmarshal array into Go value of type toxiproxy.Proxy")),
        ({"name": 5}, (400, BAD + "json: cannot unmarshal number into Go struct field .name of type string")),
        ({"enabled": "no"}, (400, BAD + "json: cannot unmarshal string into Go struct field .enabled of type bool")),
        ({**A, "listen": "nowhere"}, (500, "listen tcp: address nowhere: missing port in address")),
        ({**A, "listen": "1::2:80"}, (500, "listen tcp: address 1::2:80: too many colons in address")),
        ({**A, "listen": "h:http"}, (500, "listen tcp: address h:http: invalid port")),
        (
            {"name": "a", "upstream": UP, "listen": "192.0.2.1:80"},
            (500, "listen tcp 192.0.2.1:80: bind: cannot assign requested address"),
        ),
        ({"name": "a", "upstream": UP, "ttl_s": 5}, (400, BAD + 'a proxy\'s ttl_s goes with "enabled": false')),
        ({"name": "a", "upstream": UP, "toxics": [{"type": "x"}]}, (400, "invalid toxic type")),
        (
            {"name": "a", "upstream": UP, "toxics": [{"type": "noop"}, {"type": "noop"}]},
            (409, "toxic already exists"),
        ),
    ],
)  # fmt: skip
def test_a_proxy_that_is_refused(body, wrong):
    """Nothing is made, and the error is Toxiproxy's."""
    made, listed = answers(("POST", "/proxies", body), ("GET", "/proxies"))
    assert (made, listed) == (error(*wrong), (200, {}))


@pytest.mark.parametrize(
    "body, wrong",
    [
        ({"type": "packet_loss"}, (400, "invalid toxic type")),
        ({}, (400, "invalid toxic type")),
        (
            {"type": "latency", "stream": "up"},
            (400, "stream was invalid, can be either upstream or downstream"),
        ),
        (
            {"type": "x", "stream": "up"},
            (400, "stream was invalid, can be either upstream or downstream"),
        ),
        (
            {"type": "latency", "attributes": {"latency": 1.5}},
            (400, BAD + "json: cannot unmarshal number 1.5 into Go struct field .latency of type int64"),
        ),
        (
            {"type": "latency", "attributes": {"latency": "9"}},
            (400, BAD + "json: cannot unmarshal string into Go struct field .latency of type int64"),
        ),
        (
            {"type": "latency", "attributes": {"latency": 2**63}},
            (400, BAD + f"json: cannot unmarshal number {2**63} into Go struct field .latency of type int64"),
        ),
        ({"type": "latency", "attributes": {"latency": -1}}, (400, BAD + "latency must not be negative, got -1")),
        ({"type": "latency", "toxicity": 7}, (400, BAD + "toxicity must be from 0 to 1, got 7")),
        ({"type": "latency", "ttl_s": 0}, (400, BAD + "ttl_s must be more than 0 seconds")),
        ({"type": "latency", "ttl_s": 1e9}, (400, BAD + "ttl_s must be from 0 to 86400, got 1000000000.0")),
        ({"type": "latency", "ttl_s": 10**400}, (400, BAD + f"ttl_s must be from 0 to 86400, got 1{'0' * 39}")),
        ({"type": "timeout", "name": "slow"}, (409, "toxic already exists")),
    ],
)
def test_a_toxic_that_is_refused(body, wrong):
    """A name is unique over both streams; numbers are whole and not negative; nothing is added."""
    made = {"name": "p", "upstream": UP, "toxics": [LATENCY]}
    _, answer, listed = answers(
        ("POST", "/proxies", made), ("POST", "/proxies/p/toxics", body), ("GET", "/proxies/p/toxics")
    )
    assert (answer, listed) == (error(*wrong), (200, [{**LATENCY, "toxicity": 1}]))


@pytest.mark.parametrize(
    "method, path, answer",
    [
        ("GET", "/proxies/x", error(404, "proxy not found")),
        ("PATCH", "/proxies/x", error(404, "proxy not found")),
        ("DELETE", "/proxies/x", error(404, "proxy not found")),
        ("GET", "/proxies/x/toxics", error(404, "proxy not found")),
        ("POST", "/proxies/x/toxics", error(404, "proxy not found")),
        ("DELETE", "/proxies/x/toxics/y", error(404, "proxy not found")),
        ("PATCH", "/proxies/p/toxics/y", error(404, "toxic not found")),
        ("GET", "/proxies/p/toxics/y", error(404, "toxic not found")),
        ("GET", "/", (404, "404 page not found\n")),
        ("GET", "/proxies/", (404, "404 page not found\n")),
        ("GET", "/metrics", (404, "404 page not found\n")),
        ("GET", "/proxies/p/toxics/y/z", (404, "404 page not found\n")),
        ("DELETE", "/proxies", (405, "")),
        ("PUT", "/proxies/p", (405, "")),
        ("GET", "/reset", (405, "")),
        ("GET", "/populate", (405, "")),
        ("POST", "/version", (405, "")),
    ],
)
def test_what_is_not_there(method, path, answer):
    """Unknown names, unknown paths, wrong methods."""

    async def story(here):
        return await here.call(method, path)

    assert within(story) == answer


def test_headers_and_the_bytes_of_an_answer():
    """Errors are called plain text; the version has a charset; every answer has a request id; browsers are refused."""

    async def story(here):
        seen = {}
        for path in ("/version", "/proxies", "/nothing", "/proxies/x"):
            async with here.session.get(path) as answer:
                seen[path] = answer.status, answer.headers["Content-Type"], await answer.text()
                assert len(answer.headers["X-Toxiproxy-Request-Id"]) == 20
        assert await here.call("GET", "/version", headers={"User-Agent": "Mozilla/5.0"}) == (
            403,
            "User agent not allowed\n",
        )
        return seen

    assert within(story, bare=True) == {
        "/version": (200, "application/json;charset=utf-8", '{"version": "2.12.0", "sim": true, "leases": true}\n'),
        "/proxies": (200, "application/json", "{}"),
        "/nothing": (404, "text/plain; charset=utf-8", "404 page not found\n"),
        "/proxies/x": (404, "text/plain; charset=utf-8", '{"error":"proxy not found","status":404}\n'),
    }


def test_json_is_read_as_go_reads_it():
    """Names of fields without case, null for "leave it", nothing behind the first value, no NaN; depth has an end."""

    async def story(here):
        odd = b' {"NAME": "a", "Upstream": "127.0.0.1:9", "listen": null, "enabled": false} trailing'
        status, made = await here.call("POST", "/proxies", raw=odd)
        assert (status, bare(made)) == (
            201,
            {"name": "a", "listen": "", "upstream": UP, "enabled": False, "toxics": []},
        )
        for raw in (b"{", b'{"name": NaN}', b"[" * 100_000):
            status, answer = await here.call("POST", "/proxies", raw=raw)
            assert (status, answer["error"].startswith(BAD)) == (400, True)
        status, answer = await here.call("POST", "/proxies", raw=io.BytesIO(b" " * 3_000_000))
        assert (status, answer["error"]) == (400, BAD + "http: request body too large")
        weird = {"name": "a/b c", "upstream": UP}
        assert (await here.call("POST", "/proxies", weird))[0] == 201
        assert (await here.call("GET", "/proxies/a%2Fb%20c"))[1]["name"] == "a/b c"

    within(story, bare=True)


def test_populate():
    """Made, left alone where listen and upstream agree, replaced where not; `enabled` alone changes nothing."""

    async def story(here):
        first = [
            {"name": "a", "upstream": UP, "listen": "127.0.0.1:0"},
            {"name": "b", "upstream": UP, "enabled": False},
        ]
        status, answer = await here.call("POST", "/populate", first)
        made = answer["proxies"]
        assert (status, [(each["name"], each["enabled"]) for each in made]) == (201, [("a", True), ("b", False)])
        port = int(made[0]["listen"].rpartition(":")[2])
        before = here.server.registry.proxies["a"]
        again = [{"name": "a", "upstream": UP, "listen": f"localhost:{port}", "enabled": False, "toxics": [LATENCY]}]
        status, answer = await here.call("POST", "/populate", again)
        assert (status, [bare(each) for each in answer["proxies"]]) == (201, [bare(made[0])])
        assert here.server.registry.proxies["a"] is before
        other = [{"name": "a", "upstream": "127.0.0.1:8", "listen": f"127.0.0.1:{port}", "toxics": [LATENCY]}]
        status, answer = await here.call("POST", "/populate", other)
        shown = {**bare(made[0]), "upstream": "127.0.0.1:8", "toxics": [{**LATENCY, "toxicity": 1}]}
        assert (status, [bare(each) for each in answer["proxies"]]) == (201, [shown])
        assert await here.call("POST", "/populate", []) == (201, {"proxies": None})

    within(story, bare=True)


def test_populate_stops_at_the_first_failure():
    """Missing fields before anything is done; an address that is taken after those before it; what was there stays."""

    async def story(here):
        wrong = [{"name": "a", "upstream": UP}, {"upstream": UP}]
        assert await here.call("POST", "/populate", wrong) == (
            400,
            {"error": "missing required field: name at proxy 2", "status": 400, "proxies": None},
        )
        assert (await here.call("POST", "/populate", {}))[0] == 400
        listen = here.server.registry.proxies["p"].listen
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            busy = f"127.0.0.1:{taken.getsockname()[1]}"
            bodies = [
                {"name": "a", "upstream": UP},
                {"name": "p", "upstream": UP, "listen": busy},
                {"name": "z", "upstream": UP},
            ]
            status, answer = await here.call("POST", "/populate", bodies)
        text = f"listen tcp {busy}: bind: address already in use"
        assert (status, answer["error"], [each["name"] for each in answer["proxies"]]) == (500, text, ["a"])
        _, listed = await here.call("GET", "/proxies")
        assert {name: (each["listen"], each["enabled"]) for name, each in listed.items() if name != "a"} == {
            "p": (listen, True)
        }
        await here.pair()

    within(story)


def test_reset_enables_all_and_removes_every_toxic():
    """204; also what a lease held."""

    async def story(here):
        await here.toxic("latency", latency=5)
        await here.call("PATCH", "/proxies/p", {"enabled": False, "ttl_s": 60})
        await here.call("POST", "/proxies", {"name": "q", "upstream": UP, "enabled": False, "toxics": [LATENCY]})
        assert await here.call("POST", "/reset") == (204, "")
        _, listed = await here.call("GET", "/proxies")
        assert {name: (each["enabled"], each["toxics"], "ttl_s" in each) for name, each in listed.items()} == {
            "p": (True, [], False),
            "q": (True, [], False),
        }
        assert here.clock.due() == []

    within(story)


def test_a_reset_goes_on_past_a_proxy_that_cannot_be_enabled():
    """Its port was taken: that is the answer, and the toxics of all and the other proxies' being down are gone."""

    async def story(here):
        port = int(here.server.registry.proxies["p"].listen.rpartition(":")[2])
        await here.call("POST", "/proxies", {"name": "q", "upstream": UP, "enabled": False, "toxics": [LATENCY]})
        await here.toxic("latency", latency=5)
        await here.call("PATCH", "/proxies/p", {"enabled": False})
        with socket.create_server(("127.0.0.1", port)):
            status, _ = await here.call("POST", "/reset")
        _, listed = await here.call("GET", "/proxies")
        return status, {name: (each["enabled"], each["toxics"]) for name, each in listed.items()}

    assert within(story) == (500, {"p": (False, []), "q": (True, [])})


def test_a_proxy_moves():
    """Another listen or upstream address restarts it and drops its connections; another spelling does not."""

    async def story(here):
        client, _ = await here.pair()
        port = here.server.registry.proxies["p"].listen.rpartition(":")[2]
        await here.call("PATCH", "/proxies/p", {"listen": f"localhost:{port}", "upstream": here.upstream})
        assert (await here.stats())["cut"] == 0
        status, moved = await here.call("PATCH", "/proxies/p", {"listen": "127.0.0.1:0"})
        assert (status, moved["enabled"], moved["listen"].rpartition(":")[2] == port) == (200, True, False)
        assert await client.rest() == b""
        assert moved["stats"]["cut"] == 1
        with pytest.raises(OSError):
            await asyncio.open_connection("127.0.0.1", int(port))
        await here.pair()
        status, answer = await here.call("PATCH", "/proxies/p", {"listen": "192.0.2.1:1"})
        assert (status, answer["error"]) == (500, "listen tcp 192.0.2.1:1: bind: cannot assign requested address")
        assert (await here.call("GET", "/proxies/p"))[1]["enabled"] is False

    within(story)


def test_a_token_where_one_is_asked_for():
    """Without it 401 and nothing done."""

    async def story(here):
        here.server._api._token = "sesame"
        refused = await here.call("POST", "/proxies", {"name": "a", "upstream": UP})
        let_in = await here.call("GET", "/proxies", headers={"Authorization": "Bearer sesame"})
        return refused, let_in

    assert within(story, bare=True) == ((401, "a bearer token is needed\n"), (200, {}))


def test_many_changes_at_once_end_in_one_state():
    """Creating one name from many sides makes one proxy; the rest are told that it exists."""

    async def story(here):
        calls = [
            here.call("POST", "/proxies", {"name": "a", "upstream": UP, "listen": "localhost:0"}) for _ in range(20)
        ]
        statuses = sorted(status for status, _ in await asyncio.gather(*calls))
        return statuses, json.loads(json.dumps(sorted(here.server.registry.proxies)))

    assert within(story, bare=True) == ([201] + [409] * 19, ["a"])
