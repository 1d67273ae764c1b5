"""The schema registry: Confluent's wire with its error numbers, fail-closed, drift by the platform's own policy."""

from __future__ import annotations

import json

import pytest

from mbp._service import StartRefused
from mbp.registry import policy
from mbp.registry.policy import Policy
from mbp.registry.seed import files, sow
from tests.mbp.engines import ask
from tests.mbp.registries import QUOTES, running, schema

AVRO = {"schema": json.dumps({"type": "record", "name": "r", "fields": [{"name": "f", "type": "string"}]})}
BREAKING = {"properties": {"a": {"type": "boolean"}}}
WIDER = {"properties": {"a": {"type": ["string", "null"]}}}


@pytest.fixture
def registry(tmp_path):
    """A registry with nothing in it."""
    with running(tmp_path) as life:
        yield life


@pytest.fixture
def seeded(tmp_path):
    """A registry with the platform's subjects."""
    with running(tmp_path, seeded=True) as life:
        yield life


def number(answer):
    """Return status and error number, after checking that an error is readable to all who may read it."""
    status, body = answer
    assert set(body) == {"error_code", "message", "error", "detail"}
    assert body["message"] == body["detail"] != ""
    return status, body["error_code"]


def test_a_schema_has_one_id_for_ever(registry):
    """The same schema again, however it is spelled and wherever it stands, is the same id and no new version."""
    assert registry.register() == (200, {"id": 1})
    assert registry.register() == (200, {"id": 1})
    spelled = json.dumps(json.loads(schema()["schema"]), indent=3, sort_keys=True)
    assert registry.ask("POST", "/subjects/s/versions", {"schema": spelled, "schemaType": "JSON"}) == (200, {"id": 1})
    assert registry.register("t") == (200, {"id": 1})
    assert registry.register(**WIDER) == (200, {"id": 2})
    assert registry.ask("GET", "/subjects") == (200, ["s", "t"])
    assert registry.ask("GET", "/subjects?subjectPrefix=t") == (200, ["t"])
    assert registry.ask("GET", "/subjects/s/versions") == (200, [1, 2])
    assert registry.ask("GET", "/schemas/ids/1/versions") == (
        200,
        [{"subject": "s", "version": 1}, {"subject": "t", "version": 1}],
    )
    assert registry.ask("GET", "/schemas/ids/1/subjects") == (200, ["s", "t"])
    assert registry.ask("GET", "/schemas/ids/1") == (200, {"schema": schema()["schema"], "schemaType": "JSON"})


def test_a_version_is_shown_by_number_and_as_the_latest(registry):
    """`latest` and -1 are the same; Avro is the type that is not named; the text alone can be had too."""
    registry.register()
    registry.register(**WIDER)
    shown = {"subject": "s", "version": 2, "id": 2, "schema": schema(**WIDER)["schema"], "schemaType": "JSON"}
    assert [registry.ask("GET", f"/subjects/s/versions/{name}") for name in ("2", "latest", "-1")] == [(200, shown)] * 3
    assert registry.ask("GET", "/subjects/s/versions/2/schema") == (200, json.loads(shown["schema"]))
    assert registry.ask("GET", "/subjects/s/versions/2/referencedby") == (200, [])
    assert registry.ask("POST", "/subjects/s", schema(**WIDER)) == (200, shown)
    registry.ask("POST", "/subjects/avro/versions", AVRO)
    shown = {"subject": "avro", "version": 1, "id": 3, "schema": AVRO["schema"]}
    assert registry.ask("GET", "/subjects/avro/versions/1") == (200, shown)
    assert registry.ask("GET", "/schemas/types") == (200, ["JSON", "AVRO"])
    assert registry.ask("GET", "/") == (200, {})


def test_answers_come_in_the_registrys_content_type(registry):
    """Errors too."""
    kinds = [ask(registry.app, "GET", path).headers["content-type"] for path in ("/subjects", "/subjects/x/versions")]
    assert kinds == ["application/vnd.schemaregistry.v1+json"] * 2


def test_requests_may_come_in_it_too(registry):
    """Or in plain JSON."""
    headers = {"Content-Type": "application/vnd.schemaregistry.v1+json"}
    answer = ask(registry.app, "POST", "/subjects/s/versions", content=json.dumps(schema()), headers=headers)
    assert answer.json() == {"id": 1}


MISSING = [
    ("GET", "/subjects/x/versions", None, (404, 40401)),
    ("GET", "/subjects/x/versions/1", None, (404, 40401)),
    ("POST", "/subjects/x", schema(), (404, 40401)),
    ("DELETE", "/subjects/x", None, (404, 40401)),
    ("DELETE", "/subjects/x/versions/1", None, (404, 40401)),
    ("POST", "/compatibility/subjects/x/versions/latest", schema(), (404, 40401)),
    ("GET", "/drift/x", None, (404, 40401)),
    ("GET", "/subjects/s/versions/9", None, (404, 40402)),
    ("DELETE", "/subjects/s/versions/9", None, (404, 40402)),
    ("POST", "/compatibility/subjects/s/versions/9", schema(), (404, 40402)),
    ("GET", "/schemas/ids/9", None, (404, 40403)),
    ("GET", "/schemas/ids/9/versions", None, (404, 40403)),
    ("GET", "/schemas/ids/99999999999999999999", None, (404, 40403)),
    ("GET", "/schemas/ids/-99999999999999999999/schema", None, (404, 40403)),
    ("GET", "/schemas/ids/99999999999999999999/subjects", None, (404, 40403)),
    ("POST", "/subjects/s", schema(**WIDER), (404, 40403)),
    ("DELETE", "/subjects/s?permanent=true", None, (404, 40405)),
    ("DELETE", "/subjects/s/versions/1?permanent=true", None, (404, 40407)),
    ("GET", "/config/s", None, (404, 40408)),
    ("DELETE", "/config/s", None, (404, 40408)),
    ("GET", "/mode/s", None, (404, 40409)),
    ("POST", "/subjects/s/versions", {"schema": "{", "schemaType": "JSON"}, (422, 42201)),
    ("POST", "/subjects/s/versions", {"schema": '{"type": "nothing"}', "schemaType": "JSON"}, (422, 42201)),
    ("POST", "/subjects/s/versions", {"schema": "{}", "schemaType": "PROTOBUF"}, (422, 42201)),
    ("POST", "/subjects/s/versions", {"schema": "{}"}, (422, 42201)),
    ("POST", "/subjects/s/versions", {"schema": ""}, (422, 42201)),
    ("POST", "/subjects/s/versions", {}, (422, 42201)),
    ("POST", "/subjects/s/versions", {**schema(), "references": [{"name": "x"}]}, (422, 42201)),
    ("POST", "/subjects/s/versions", [], (422, 422)),
    ("POST", "/compatibility/subjects/s/versions/1", {"schema": "{", "schemaType": "JSON"}, (422, 42201)),
    ("GET", "/subjects/s/versions/0", None, (422, 42202)),
    ("GET", "/subjects/s/versions/newest", None, (422, 42202)),
    ("GET", "/subjects/s/versions/2147483648", None, (422, 42202)),
    ("DELETE", "/subjects/s/versions/-2", None, (422, 42202)),
    ("PUT", "/config/s", {"compatibility": "SOMETIMES"}, (422, 42203)),
    ("PUT", "/config", {}, (422, 42203)),
    ("POST", "/compatibility/subjects/s/versions/1?level=SOMETIMES", schema(), (422, 42203)),
    ("POST", f"/subjects/{'x' * 256}/versions", schema(), (422, 42208)),
    ("PUT", f"/config/{'x' * 256}", {"compatibility": "NONE"}, (422, 42208)),
    ("PUT", "/config/%00", {"compatibility": "NONE"}, (422, 42208)),
    ("GET", "/subjects?deleted=perhaps", None, (422, 422)),
    ("GET", "/nothing", None, (404, 404)),
    ("PATCH", "/config", None, (405, 405)),
]


@pytest.mark.parametrize(("method", "path", "body", "told"), MISSING)
def test_error_numbers_are_those_of_confluent(registry, method, path, body, told):
    """Status and number of each refusal; the store stays as it was."""
    registry.register()
    before = registry.store.versions("s", deleted=True)
    assert number(registry.ask(method, path, body)) == told
    assert (registry.store.versions("s", deleted=True), registry.store.subjects()) == (before, ["s"])


def test_a_body_that_is_no_json_is_400(registry):
    """Whatever the route."""
    for method, path in (("POST", "/subjects/s/versions"), ("POST", "/subjects/s"), ("PUT", "/config")):
        assert number(registry.ask(method, path, content=b"{")) == (400, 400)


def test_half_a_character_is_no_schema(registry):
    """A lone surrogate could not be stored; an escape that stands in the schema's own text can."""
    for text, told in (('{"title": "\ud800"}', (422, 42201)), ('{"title": "\\ud800\u00e9"}', (200, None))):
        sent = json.dumps({"schema": text, "schemaType": "JSON"})
        status, body = registry.ask("POST", "/subjects/s/versions", content=sent)
        assert (status, body.get("error_code")) == told


def test_a_breaking_schema_is_refused_unless_nothing_is_asked(registry):
    """409 under every level that looks; NONE lets it in, and the next one is again held to what is set then."""
    registry.register()
    status, body = registry.register(**BREAKING)
    assert (status, body["error_code"], body["error"]) == (409, 409, "incompatible")
    assert "/properties/a/type: string became boolean" in body["message"]
    assert registry.ask("GET", "/subjects/s/versions") == (200, [1])
    assert registry.ask("PUT", "/config/s", {"compatibility": "none"}) == (200, {"compatibility": "NONE"})
    assert registry.register(**BREAKING) == (200, {"id": 2})
    assert registry.ask("DELETE", "/config/s") == (200, {"compatibilityLevel": "NONE"})
    assert registry.register(properties={"a": {"type": "integer"}})[0] == 409


def test_what_cannot_be_decided_is_refused(registry):
    """Fail-closed: a reference that leads out of the document is no reason to believe the best."""
    registry.register()
    status, body = registry.ask(
        "POST", "/subjects/s/versions", {"schema": '{"$ref": "http://elsewhere.test/x"}', "schemaType": "JSON"}
    )
    assert (status, body["error_code"]) == (409, 409)
    assert "undecidable" in body["message"]


def test_levels_of_a_subject_stand_before_the_global_one(registry):
    """GET, PUT and DELETE of both; `defaultToGlobal` shows what holds."""
    assert registry.ask("GET", "/config") == (200, {"compatibilityLevel": "BACKWARD"})
    assert registry.ask("PUT", "/config", {"compatibility": "FULL"}) == (200, {"compatibility": "FULL"})
    assert registry.ask("GET", "/config/s?defaultToGlobal=true") == (200, {"compatibilityLevel": "FULL"})
    registry.register()
    assert registry.register(**WIDER)[0] == 409
    registry.ask("PUT", "/config/s", {"compatibility": "BACKWARD"})
    assert registry.ask("GET", "/config/s") == (200, {"compatibilityLevel": "BACKWARD"})
    assert registry.register(**WIDER)[0] == 200
    assert registry.ask("DELETE", "/config") == (200, {"compatibilityLevel": "FULL"})
    assert registry.ask("GET", "/config") == (200, {"compatibilityLevel": "BACKWARD"})
    assert registry.ask("GET", "/mode") == (200, {"mode": "READWRITE"})
    assert registry.ask("GET", "/mode/s?defaultToGlobal=true") == (200, {"mode": "READWRITE"})


def test_compatibility_may_be_asked_without_registering(registry):
    """With one version or all that the level looks at, with reasons, under another level, under the platform's."""
    registry.register()
    registry.ask("PUT", "/config/s", {"compatibility": "NONE"})
    path = "/compatibility/subjects/s/versions"
    why = ["the new schema does not read the old: /properties/a/type: string became boolean"]
    assert registry.ask("POST", f"{path}/latest", schema(**BREAKING)) == (200, {"is_compatible": True})
    assert registry.ask("POST", f"{path}/1?level=platform&verbose=true", schema(**BREAKING)) == (
        200,
        {"is_compatible": False, "messages": why},
    )
    assert registry.ask("POST", f"{path}?level=forward", schema(**WIDER)) == (200, {"is_compatible": False})
    assert registry.ask("POST", f"{path}?level=backward&verbose=true", schema(**WIDER)) == (
        200,
        {"is_compatible": True, "messages": []},
    )
    assert registry.ask("GET", "/subjects/s/versions") == (200, [1])


def test_deleting_is_soft_first(registry):
    """Soft: hidden, its id still resolves. Permanent: gone; a number may come again, an id never."""
    registry.register()
    registry.register(**WIDER)
    assert registry.ask("DELETE", "/subjects/s/versions/latest") == (200, 2)
    assert registry.ask("GET", "/subjects/s/versions") == (200, [1])
    assert registry.ask("GET", "/subjects/s/versions?deleted=true") == (200, [1, 2])
    assert number(registry.ask("GET", "/subjects/s/versions/2")) == (404, 40402)
    assert registry.ask("GET", "/subjects/s/versions/2?deleted=true")[0] == 200
    assert registry.ask("GET", "/schemas/ids/2")[0] == 200
    assert number(registry.ask("DELETE", "/subjects/s/versions/2")) == (404, 40406)
    assert registry.ask("DELETE", "/subjects/s/versions/2?permanent=true") == (200, 2)
    assert registry.ask("GET", "/subjects/s/versions?deleted=true") == (200, [1])
    assert number(registry.ask("GET", "/schemas/ids/2")) == (404, 40403)
    assert registry.register(properties={"a": {"type": ["string", "integer"]}}) == (200, {"id": 3})
    assert registry.ask("GET", "/subjects/s/versions") == (200, [1, 2])


def test_a_whole_subject_is_deleted_the_same_way(registry):
    """Its level goes with it for good."""
    registry.register()
    registry.register(**WIDER)
    registry.ask("PUT", "/config/s", {"compatibility": "FULL"})
    assert registry.ask("DELETE", "/subjects/s") == (200, [1, 2])
    assert registry.ask("GET", "/subjects") == (200, [])
    assert registry.ask("GET", "/subjects?deleted=true") == (200, ["s"])
    assert number(registry.ask("DELETE", "/subjects/s")) == (404, 40404)
    assert number(registry.ask("DELETE", "/subjects/s/versions/latest")) == (404, 40401)
    assert registry.drift() == {}
    assert registry.ask("DELETE", "/subjects/s?permanent=true") == (200, [1, 2])
    assert registry.ask("GET", "/subjects?deleted=true") == (200, [])
    assert number(registry.ask("GET", "/config/s")) == (404, 40408)


def test_a_schema_that_was_deleted_softly_may_come_back(registry):
    """As a new version under its old id."""
    registry.register()
    registry.ask("DELETE", "/subjects/s/versions/1")
    assert registry.register() == (200, {"id": 1})
    assert registry.ask("GET", "/subjects/s/versions?deleted=true") == (200, [1, 2])


# -- drift ------------------------------------------------------------------------------------------------------------


def test_drift_is_judged_by_the_platform_not_by_the_subjects_level(registry):
    """NONE lets the breaking version in and does not blind the gauge; deleting it brings the gauge back."""
    registry.register()
    assert registry.drift() == {"s": 0.0}
    registry.ask("PUT", "/config/s", {"compatibility": "NONE"})
    registry.register(**BREAKING)
    assert registry.drift() == {"s": 1.0}
    assert registry.ask("GET", "/drift/s") == (
        200,
        {
            "subject": "s",
            "version": 2,
            "policy": "BACKWARD",
            "drift": True,
            "messages": ["the new schema does not read the old: /properties/a/type: string became boolean"],
        },
    )
    registry.ask("DELETE", "/subjects/s/versions/2")
    assert registry.drift() == {"s": 0.0}


def test_what_cannot_be_judged_has_drifted(registry, tmp_path):
    """A schema that nobody can make sense of is let in by NONE; it is drift, and no reason to fall or not to start."""
    registry.register()
    registry.ask("PUT", "/config/s", {"compatibility": "NONE"})
    odd = {"schema": '{"$ref": "#/x", "x": {"type": 5}}', "schemaType": "JSON"}
    assert registry.ask("POST", "/subjects/s/versions", odd)[0] == 200
    assert registry.drift() == {"s": 1.0}
    with running(tmp_path) as second:
        assert second.drift() == {"s": 1.0}


def test_drift_follows_the_declared_level_of_the_subject(tmp_path):
    """FORWARD_TRANSITIVE looks at every version, in the other direction."""
    with running(tmp_path, policy=Policy("BACKWARD", {"f": "FORWARD_TRANSITIVE"})) as registry:
        registry.ask("PUT", "/config", {"compatibility": "NONE"})
        for subject in ("f", "s"):
            registry.register(subject)
            registry.register(subject, **WIDER)
            registry.register(subject, properties={"a": {"type": ["string", "null"], "maxLength": 9}})
        assert registry.drift() == {"f": 1.0, "s": 1.0}
        registry.ask("DELETE", "/subjects/f/versions/3")
        registry.ask("DELETE", "/subjects/s/versions/3")
        assert registry.drift() == {"f": 1.0, "s": 0.0}


def test_what_was_answered_is_there_after_a_kill(tmp_path):
    """A second life over the same file, the first never closed: subjects, ids, levels, drift."""
    with running(tmp_path, seeded=True) as first:
        first.ask("PUT", "/config/s", {"compatibility": "NONE"})
        first.register()
        first.register(**BREAKING)
        paths = ("/subjects", "/subjects/s/versions/latest", "/config/s", "/drift", "/schemas/ids/1")
        seen = [first.ask("GET", path) for path in paths]
        with running(tmp_path, seeded=True) as second:
            assert [second.ask("GET", path) for path in paths] == seen
            assert second.drift()["s"] == 1.0


def test_a_scrape_compares_nothing(registry, monkeypatch):
    """Drift is computed on change and cached; outcomes are counted."""
    registry.register()
    registry.register(**BREAKING)
    registry.register()
    registry.ask("POST", "/subjects/s/versions", {"schema": "{", "schemaType": "JSON"})
    monkeypatch.setattr("mbp.registry.registry.incompatibilities", None)
    text = ask(registry.app, "GET", "/metrics").text
    told = {line.split('"')[1]: line.split()[-1] for line in text.splitlines() if "requests_total{" in line}
    assert told == {"registered": "1.0", "known": "1.0", "incompatible": "1.0", "invalid": "1.0"}
    assert 'schema_registry_versions{subject="s"} 1.0' in text


# -- the platform's own subjects --------------------------------------------------------------------------------------


def test_the_platforms_subjects_are_there_from_the_start(seeded):
    """One for each event type, and quotes with a predecessor; none has drifted; quotes has its level."""
    drift = seeded.drift()
    types = ("flagged_abuse", "liquidity_added", "market_created", "resolution_finished", "resolution_started",
             "trade_executed")  # fmt: skip
    assert drift == dict.fromkeys((*(f"mbp.events.v1.{each}-value" for each in types), QUOTES), 0.0)
    assert seeded.ask("GET", f"/subjects/{QUOTES}/versions") == (200, [1, 2])
    assert seeded.ask("GET", f"/config/{QUOTES}") == (200, {"compatibilityLevel": "BACKWARD"})
    assert (
        json.loads(seeded.ask("GET", f"/subjects/{QUOTES}/versions/latest")[1]["schema"])["title"]
        == "mbp.quotes/v1.2.0"
    )


def test_seeding_again_leaves_what_is_there(seeded):
    """Versions, also a soft-deleted one, and the level that somebody has set since."""
    seeded.ask("PUT", f"/config/{QUOTES}", {"compatibility": "FULL"})
    seeded.ask("DELETE", f"/subjects/{QUOTES}/versions/2")
    sow(seeded.registry)
    assert seeded.ask("GET", f"/subjects/{QUOTES}/versions") == (200, [1])
    assert seeded.ask("GET", f"/config/{QUOTES}") == (200, {"compatibilityLevel": "FULL"})


def test_seeds_are_taken_in_the_order_of_their_versions(tmp_path):
    """By number, not by letter; other files are left alone."""
    (tmp_path / "quotes").mkdir()
    for name in ("v1.10.0", "v1.2.0", "v2.0.0", "draft"):
        (tmp_path / "quotes" / f"{name}.json").write_text("true")
    told = [(subject, path.stem) for subject, path in files(tmp_path)]
    assert told == [(QUOTES, "v1.2.0"), (QUOTES, "v1.10.0"), ("mbp.quotes.v2-value", "v2.0.0")]


@pytest.mark.parametrize("texts", [("{", "true"), ('{"type": "string"}', '{"type": "null"}')])
def test_a_registry_does_not_start_on_bad_seeds(registry, tmp_path, texts):
    """Unreadable, or breaking the version before: the file is named."""
    (tmp_path / "quotes").mkdir()
    for name, text in zip(("v1.0.0", "v1.1.0"), texts, strict=True):
        (tmp_path / "quotes" / f"{name}.json").write_text(text)
    with pytest.raises(StartRefused, match=r"quotes/v1\.[01]\.0\.json"):
        sow(registry.registry, tmp_path)
    with pytest.raises(StartRefused, match="no folder"):
        sow(registry.registry, tmp_path / "nothing")


def test_the_bundled_policy_is_read():
    """Quotes and the rest: a consumer of today reads what was written yesterday."""
    assert policy.load() == Policy("BACKWARD", {QUOTES: "BACKWARD"})


@pytest.mark.parametrize(
    "text",
    ["", "{", "version: 1", "{version: 1, default: NONE}", "{version: 1, default: BACKWARD, subjects: {a: NONE}}",
     "{version: 2, default: BACKWARD}", "{version: 1, default: BACKWARD, subjects: [a]}", "{version: 1, default: [x]}"],
)  # fmt: skip
def test_a_policy_that_would_judge_nothing_is_refused(tmp_path, text):
    """NONE too: it would blind the gauge."""
    path = tmp_path / "policy.yaml"
    path.write_text(text)
    with pytest.raises(StartRefused, match=r"policy\.yaml"):
        policy.load(path)
