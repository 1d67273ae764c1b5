"""`registry.bump_version` against the platform's own registry on a real socket."""

from __future__ import annotations

import asyncio
import json
import tempfile
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import httpx
import pytest
from pydantic import ValidationError

from injectors.registry.bump_version import SUBJECT, derived, injector
from sim.injector import InjectionError, Signal, Site
from sim.secret import Secrets
from sim.target import Door
from tests.mbp.registries import schema, serving, stored

AVRO = {"type": "record", "name": "r", "fields": [{"name": "f", "type": "string", "default": ""}]}


@asynccontextmanager
async def fake_target():
    """Yield what the contract test uses: doors, arguments, and what the registry's file holds."""
    with tempfile.TemporaryDirectory() as folder, serving(Path(folder), seeded=True) as url:
        yield {"registry": Door(url=url)}, {"incompatible": True}, lambda: stored(Path(folder))


@pytest.fixture(scope="module")
def target(tmp_path_factory):
    """One registry for this module; each test leaves it as it was, or uses a subject of its own."""
    folder = tmp_path_factory.mktemp("registry")
    with serving(folder, seeded=True) as url:
        yield url, lambda: stored(folder)


@contextmanager
def asking(url):
    """Give a function that sends one request and returns status and JSON."""
    with httpx.Client(base_url=url, trust_env=False) as client:

        def ask(method, path, body=None):
            answer = client.request(method, path, json=body)
            return answer.status_code, answer.json()

        yield ask


def site(url, injection="r1-0"):
    return Site(injection, "r1", {"registry": Door(url=url)}, Secrets({}), ttl_s=6.0)


def params(**given):
    return injector.params.model_validate(given)


def use(url, *steps, injection="r1-0", **given):
    """Prepare, then run the steps by name; return the prepared and what each step gave."""

    async def main():
        prepared = await injector.prepare(site(url, injection), params(**given))
        receipt = json.loads(json.dumps(prepared.receipt))
        return prepared, [await getattr(injector, step)(site(url, injection), receipt) for step in steps]

    return asyncio.run(main())


def test_arguments_and_their_bounds():
    """As the seed spells it; the subject is one of the platform's; other things are refused."""
    assert params(incompatible=True).model_dump() == {"incompatible": True, "subject": SUBJECT}
    assert params().incompatible is True
    for given in ({"incompatible": 3}, {"subject": ""}, {"subject": "a/b"}, {"other": 1}):
        with pytest.raises(ValidationError):
            params(**given)


def test_prepare_records_what_undoing_needs(target):
    """Level, versions and the derived schema, marked; nothing is changed."""
    url, state = target
    before = state()
    prepared, _ = use(url)
    made = json.loads(prepared.receipt.pop("schema"))
    assert prepared.receipt == {
        "fault": "r1-0", "run": "r1", "subject": SUBJECT, "incompatible": True, "versions": [1, 2], "level": "BACKWARD",
        "schema_type": "JSON",
    }  # fmt: skip
    assert (made["$comment"], made["properties"]["market"]) == ("sim injection r1-0", {"type": "boolean"})
    assert prepared.targets == (f"subject {SUBJECT}",)
    assert prepared.prior["level"] == "BACKWARD" and prepared.prior["versions"] == [1, 2]
    assert state() == before


def test_it_is_in_effective_and_gone_again(target):
    """The version is in under NONE, both of the registry's answers say that it breaks; withdrawing restores all."""
    url, state = target
    before = state()
    _, (_, probe, there, _, gone, *_) = use(url, "apply", "effective", "gone", "withdraw", "gone", "withdraw", "gone")
    assert (probe.holds, dict(probe.evidence)) == (
        True,
        {
            "subject": SUBJECT, "latest": 3, "latest_is_new": True, "predecessor": 2,
            "compatible": False, "drift": True,
            "why": "the new schema does not read the old: /properties/market/type: string became boolean",
        },
    )  # fmt: skip
    assert (there.holds, dict(there.evidence)) == (False, {"ours": [3], "level": "NONE", "versions": [1, 2, 3]})
    assert (gone.holds, dict(gone.evidence)) == (True, {"ours": [], "level": "BACKWARD", "versions": [1, 2]})
    assert state() == before


def test_a_level_that_was_not_set_is_unset_again(target):
    """Also on a subject that only has the global level; a half-applied fault (NONE, nothing registered) is undone."""
    url, state = target
    subject = "mbp.events.v1.trade_executed-value"
    before = state()
    _, (_, probe, _, gone) = use(url, "apply", "effective", "withdraw", "gone", subject=subject)
    assert (probe.holds, gone.holds, gone.evidence["level"], state()) == (True, True, None, before)
    with asking(url) as ask:
        prepared, _ = use(url, subject=subject)
        ask("PUT", f"/config/{subject}", {"compatibility": "NONE"})
        half = asyncio.run(injector.gone(site(url), prepared.receipt))
        asyncio.run(injector.withdraw(site(url), prepared.receipt))
    assert (half.holds, state()) == (False, before)


def test_a_half_dose_never_bites(target):
    """incompatible=false: a marked version that reads the old one, under the level that was set; not effective."""
    url, state = target
    before = state()
    _, (_, probe, there, _, gone) = use(url, "apply", "effective", "gone", "withdraw", "gone", incompatible=False)
    assert (probe.holds, probe.evidence["compatible"], probe.evidence["drift"]) == (False, True, False)
    assert (there.holds, there.evidence["level"], gone.holds, state()) == (False, "BACKWARD", True, before)


def test_without_none_a_registry_refuses_the_fault(target):
    """Fail-closed: the very schema is answered 409 as long as the subject's level looks."""
    url, state = target
    before = state()
    prepared, _ = use(url)
    with asking(url) as ask:
        body = {"schema": prepared.receipt["schema"], "schemaType": "JSON"}
        status, told = ask("POST", f"/subjects/{SUBJECT}/versions", body)
    assert (status, told["error_code"], state()) == (409, 409, before)


def test_only_its_own_version_is_withdrawn(target):
    """Versions that others register meanwhile stay, one whose id begins like ours too."""
    url, state = target
    with asking(url) as ask:
        ask("POST", "/subjects/mixed/versions", schema())
        prepared, _ = use(url, "apply", subject="mixed")
        other = {"schema": derived(schema()["schema"], "JSON", "sim injection r1-01", False), "schemaType": "JSON"}
        assert ask("POST", "/subjects/mixed/versions", other)[0] == 200
        probe = asyncio.run(injector.effective(site(url), prepared.receipt))
        asyncio.run(injector.withdraw(site(url), prepared.receipt))
        assert (probe.holds, probe.evidence["latest_is_new"]) == (False, False)
        assert ask("GET", "/subjects/mixed/versions?deleted=true") == (200, [1, 3])
        ask("DELETE", "/subjects/mixed/versions/3")
        ask("DELETE", "/subjects/mixed")
        ask("DELETE", "/subjects/mixed?permanent=true")
    assert not any(row[0] == "mixed" for row in state())


def test_an_avro_subject_is_bumped_as_well(target):
    """Its first field gets a type that Avro does not promote to."""
    url, _ = target
    with asking(url) as ask:
        ask("POST", "/subjects/avro/versions", {"schema": json.dumps(AVRO)})
        _, (_, probe, _, gone) = use(url, "apply", "effective", "withdraw", "gone", subject="avro")
    assert (probe.holds, gone.holds) == (True, True)


def test_prepare_refuses_what_it_cannot_do_cleanly(target):
    """No such subject; a version of another injection still there; nobody there; no door."""
    url, _ = target
    with pytest.raises(InjectionError, match="there is no subject 'nothing' to bump"):
        use(url, subject="nothing")
    prepared, _ = use(url, "apply")
    with pytest.raises(InjectionError, match="is an injection's already"):
        use(url, injection="r2-0")
    asyncio.run(injector.withdraw(site(url), prepared.receipt))
    with pytest.raises(InjectionError, match=r"http://127\.0\.0\.1:1/"):
        use("http://127.0.0.1:1")
    with pytest.raises(InjectionError, match="no door 'registry'"):
        asyncio.run(injector.prepare(Site("r1-0", "r1", {}, Secrets({})), params()))


@pytest.mark.parametrize(
    ("text", "kind", "told"),
    [
        ("{", "JSON", "not JSON"),
        ("true", "JSON", "no object"),
        ("{}", "JSON", "no properties"),
        ('{"properties": {}}', "JSON", "no properties"),
        ('"string"', "AVRO", "no object"),
        ('{"type": "enum"}', "AVRO", "no record"),
        ("{}", "PROTOBUF", "nothing is known"),
    ],
)
def test_a_schema_that_nothing_is_known_of_how_to_break(text, kind, told):
    """It says so before anything is touched."""
    with pytest.raises(InjectionError, match=told):
        derived(text, kind, "m", True)


def test_a_derived_schema_breaks_a_required_member():
    """A boolean one becomes text; without required ones the first; the half dose only carries the mark."""
    held = {"properties": {"a": {"type": "boolean"}, "b": {"type": "string"}}, "required": ["b"]}
    made = json.loads(derived(json.dumps(held), "JSON", "m", True))
    assert made == {**held, "$comment": "m", "properties": {"a": {"type": "boolean"}, "b": {"type": "boolean"}}}
    del held["required"]
    made = json.loads(derived(json.dumps(held), "JSON", "m", True))
    assert made["properties"] == {"a": {"type": "string"}, "b": {"type": "string"}}
    assert json.loads(derived(json.dumps(held), "JSON", "m", False)) == {**held, "$comment": "m"}
    made = json.loads(derived(json.dumps(AVRO), "AVRO", "m", True))
    assert made == {**AVRO, "doc": "m", "fields": [{"name": "f", "type": "boolean"}]}


def test_its_signal_is_the_platforms_gauge():
    """1 from the registration on; 0 at a half dose."""
    (full,), (half,) = injector.signal(params()), injector.signal(params(incompatible=False))
    assert isinstance(full, Signal)
    assert (full.metric, full.labels, full.points[0], full.points[-1]) == (
        "schema_registry_drift",
        {"subject": SUBJECT},
        (0.0, 1.0),
        (300.0, 1.0),
    )
    assert {value for _, value in half.points} == {0.0}
