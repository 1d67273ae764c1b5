"""One table of what a Toxiproxy answers and does, held against `sim proxy` and the real 2.12, through stock clients."""

from __future__ import annotations

import json
import socket
import time
from contextlib import ExitStack

import pytest
import yaml

from tests.conftest import tool
from tests.live import toxiproxies
from tests.live.conformance import drivers

TABLE = yaml.safe_load((drivers.HERE / "table.yaml").read_text(encoding="utf-8"))
CLIENTS = ("raw", "toxiproxy-python", "chaostoolkit", "node")
_LONGEST_S = 6.0


def filled(value, names):
    """Return a value of the table with its words (UPSTREAM, FREE) filled in."""
    if isinstance(value, str):
        for name, what in names.items():
            value = value.replace(name, what)
        return value
    if isinstance(value, dict):
        return {key: filled(each, names) for key, each in value.items()}
    return [filled(each, names) for each in value] if isinstance(value, list) else value


def differs(expected, found, at="body"):
    """Return where an answer is not what the table says, null where it is."""
    if expected == "…":
        return None
    if isinstance(expected, dict) and expected:
        if not isinstance(found, dict):
            return f"{at}: expected an object, got {found!r}"
        told = (differs(each, found.get(key), f"{at}.{key}") for key, each in expected.items())
        return next((each for each in told if each), None)
    if isinstance(expected, list):
        if not isinstance(found, list) or len(found) != len(expected):
            return f"{at}: expected {len(expected)} of them, got {found!r}"
        told = (differs(each, found[n], f"{at}.{n}") for n, each in enumerate(expected))
        return next((each for each in told if each), None)
    return None if expected == found else f"{at}: expected {expected!r}, got {found!r}"


def judged(row, passed):
    """Return what is wrong with the last exchange of a row, null where nothing is."""
    if not passed:
        return f"expected {row['last']}, but nothing was asked"
    last = passed[-1]
    if (last.asked, last.status) != (row["last"], row["status"]):
        return f"expected {row['last']} {row['status']}, got {last.asked} {last.status}: {last.body[:200]}"
    if "text" in row:
        return None if row["text"] in ("…", last.body.strip()) else f"expected {row['text']!r}, got {last.body!r}"
    if row["body"] is None:
        return None if last.body == "" else f"expected an empty body, got {last.body!r}"
    try:
        return differs(row["body"], json.loads(last.body))
    except ValueError:
        return f"no JSON: {last.body!r}"


def driver_of(client, wire):
    """Return the client behind the table's calls."""
    if client == "node":
        return drivers.Node(wire, tool("node"), toxiproxies.node_client())
    return {"raw": drivers.Raw, "toxiproxy-python": drivers.Python, "chaostoolkit": drivers.Chaostoolkit}[client](wire)


def meant_for(row, client):
    """Whether a row is put through a client as it is, and not only through the raw driver to bring the state about."""
    return client in row.get("only", CLIENTS) and client not in row.get("without", ())


def driven(client, server):
    """Put every row through a client (where it offers no such call: raw, for the rows after it); return what is wrong.

    Returns also how many rows went through the client itself.
    """
    wrong, own = [], 0
    with toxiproxies.serving(server) as url, ExitStack() as closing:
        upstream, wire = toxiproxies.Upstream(), drivers.Wire(url)
        closing.callback(upstream.close)
        closing.callback(wire.close)
        driver, raw = driver_of(client, wire), drivers.Raw(wire)
        closing.callback(driver.close)
        names = {"UPSTREAM": upstream.address, "FREE": f"127.0.0.1:{toxiproxies.free_port()}"}
        for row in filled(TABLE["rows"], names):
            wire.passed.clear()
            given = row.get("with", {})
            through = driver if meant_for(row, client) else raw
            told = ""
            try:
                through.call(row["call"], given)
                own += through is driver
            except drivers.NotOffered:
                wire.passed.clear()
                raw.call(row["call"], given)
            except Exception as error:  # noqa: BLE001 - how a client says that it was refused is its own affair
                told, own = f" ({type(error).__name__}: {error!s:.80})", own + 1
            expected = row | (row.get("sim", {}) if server == "sim proxy" else {})
            if trouble := judged(expected, wire.passed):
                wrong.append(f"{row['what']}: {trouble}{told}")
    return wrong, own


#: How many rows each client carries itself: fewer would mean that it is not what is tested.
OWN = {"raw": len(TABLE["rows"]), "toxiproxy-python": 24, "chaostoolkit": 20, "node": 30}


@pytest.mark.parametrize("server", toxiproxies.SERVERS)
@pytest.mark.parametrize("client", CLIENTS)
def test_the_table_through(client, server):
    """Every row: the request, the status and the body, as this client gets them."""
    wrong, own = driven(client, server)
    assert (wrong, own >= OWN[client]) == ([], True), own


# -- what the toxics do ----------------------------------------------------------------------------------------------


def took(work):
    """Return what a piece of work returned, and how long it took, ms."""
    began = time.monotonic()
    return work(), (time.monotonic() - began) * 1000


def ending(link):
    """Read a connection to its end; return what came, and how it ended."""
    got = b""
    try:
        while chunk := link.recv(65536):
            got += chunk
    except ConnectionResetError:
        return got, "reset"
    except TimeoutError:
        return got, "open"
    return got, "closed"


def echoed(address, count):
    """Send so many bytes through a link and read until as many are back; return whether they are the same."""
    sent = bytes(n % 251 for n in range(count))
    with socket.create_connection(address, _LONGEST_S) as link:
        link.sendall(sent)
        got = b""
        while len(got) < count and (chunk := link.recv(65536)):
            got += chunk
    return got == sent


def done(step, address):
    """Do one step of an effect at a link; return what was not as the table says, null where all was."""
    least, most = step.get("ms", [0, _LONGEST_S * 1000])
    if step.get("refused"):
        with socket.socket() as probe:
            probe.settimeout(_LONGEST_S)
            return None if probe.connect_ex(address) != 0 else "expected to be refused, and was not"
    if "echo" in step:
        same, ms = took(lambda: echoed(address, step["echo"]))
        return None if same and least <= ms <= most else f"expected an echo in {least}-{most} ms: {same} in {ms:.0f} ms"
    with socket.create_connection(address, _LONGEST_S) as link:
        if "cut" in step:
            link.sendall(b"x" * step["cut"])
            got, end = ending(link)
            return None if (len(got), end == "open") == (step["at"], False) else f"{len(got)} bytes came, then {end}"
        link.sendall(b"x" * step["lost"])
        (got, end), ms = took(lambda: ending(link))
    well = got == b"" and end in step["ends"] and least <= ms <= most
    return None if well else f"expected {step['ends']} in {least}-{most} ms: {len(got)} bytes, {end} in {ms:.0f} ms"


@pytest.mark.parametrize("server", toxiproxies.SERVERS)
def test_the_effects(server):
    """Each toxic does to a connection what the table says, and a link without one is as if it were not there."""
    wrong = []
    with toxiproxies.serving(server) as url, ExitStack() as closing:
        upstream, wire = toxiproxies.Upstream(), drivers.Wire(url)
        closing.callback(upstream.close)
        closing.callback(wire.close)
        raw = drivers.Raw(wire)
        for number, effect in enumerate(TABLE["effects"]):
            name = f"link{number}"
            form = {"name": name, "listen": "127.0.0.1:0", "upstream": upstream.address}
            host, port = json.loads(raw.ask("POST", "/proxies", form)[1])["listen"].rsplit(":", 1)
            answers = [raw.ask("POST", f"/proxies/{name}/toxics", toxic)[0] for toxic in effect.get("toxics", ())]
            if effect.get("down"):
                answers.append(raw.ask("POST", f"/proxies/{name}", {"enabled": False})[0])
            told = [done(step, (host, int(port))) for step in effect["does"]]
            answers.append(raw.ask("DELETE", f"/proxies/{name}")[0])
            wrong += [f"{effect['what']}: {each}" for each in told if each]
            wrong += [f"{effect['what']}: the server answered {answers}"] * (not set(answers) <= {200, 204})
    assert wrong == []


@pytest.mark.parametrize("server", toxiproxies.SERVERS)
def test_removing_a_black_hole_closes_what_it_held(server):
    """A connection that was swallowed under ``timeout`` 0 is closed with the toxic, and a new one passes."""
    with toxiproxies.serving(server) as url, ExitStack() as closing:
        upstream, wire = toxiproxies.Upstream(), drivers.Wire(url)
        closing.callback(upstream.close)
        closing.callback(wire.close)
        raw = drivers.Raw(wire)
        form = {"name": "db", "listen": "127.0.0.1:0", "upstream": upstream.address}
        host, port = json.loads(raw.ask("POST", "/proxies", form)[1])["listen"].rsplit(":", 1)
        raw.ask("POST", "/proxies/db/toxics", {"name": "t", "type": "timeout", "attributes": {"timeout": 0}})
        with socket.create_connection((host, int(port)), _LONGEST_S) as link:
            link.sendall(b"hello")
            link.settimeout(0.5)
            assert ending(link) == (b"", "open")  # swallowed by now
            link.settimeout(_LONGEST_S)
            removed, _ = raw.ask("DELETE", "/proxies/db/toxics/t")
            got, end = ending(link)
        assert (removed, got, end == "open", echoed((host, int(port)), 100)) == (204, b"", False, True)


# -- the table notices -----------------------------------------------------------------------------------------------


def test_the_table_is_not_blind():
    """A wrong status, a missing field, another list: each is told."""
    row = {"last": "GET /x", "status": 200, "body": {"a": [1, "…"], "b": "…"}}
    passed = drivers.Passed("GET /x", 200, '{"a": [1, 2], "c": 3}', "application/json")

    def with_body(body):
        return judged(row, [drivers.Passed("GET /x", 200, body, "")])

    assert judged(row, [passed]) is None
    assert judged(row, []) == "expected GET /x, but nothing was asked"
    assert judged(row | {"status": 201}, [passed]).startswith("expected GET /x 201, got GET /x 200")
    assert with_body('{"a": [1]}') == "body.a: expected 2 of them, got [1]"
    assert with_body('{"a": [2, 2]}') == "body.a.0: expected 1, got 2"
    assert with_body("[]") == "body: expected an object, got []"
    assert with_body("x") == "no JSON: 'x'"
    assert judged(row | {"body": None}, [passed]).startswith("expected an empty body")
    assert {client for row in TABLE["rows"] for client in [*row.get("only", ()), *row.get("without", ())]} <= set(
        CLIENTS
    )
