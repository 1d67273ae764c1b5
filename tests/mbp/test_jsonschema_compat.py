"""The compatibility checker: against the vectors, against a validator of the specification, and where it says no."""

from __future__ import annotations

import json
from collections import Counter
from decimal import Decimal
from pathlib import Path

import pytest
from jsonschema import Draft4Validator, Draft7Validator

from mbp.registry import jsonschema_objects
from mbp.registry.compatibility import incompatibilities, normal, reads
from mbp.registry.jsonschema_compat import STEPS, differences
from mbp.registry.jsonschema_document import Unreadable, load
from mbp.registry.jsonschema_objects import matches
from tests.mbp.random_schemas import Maker

VECTORS = Path(__file__).parents[1] / "vectors" / "jsonschema-compat"
DOCS = Path(__file__).parents[2] / "docs" / "schema-compatibility.md"

#: Where the checker and the vectors differ: place, id, what the vectors say, what the checker says. The whole list:
#: a case that changes sides fails the test. The reasons stand in docs/schema-compatibility.md.
DIFFERENCES = [
    (117, "Complex: oneOf 1", "backward", "none"),
    (119, "Complex: oneOf 3", "backward", "none"),
]


def raw_cases(name):
    """Return (id, label, original text, updated text) of each case, numbers as they are written."""
    found = json.loads((VECTORS / name).read_text(encoding="utf-8"), parse_float=Decimal)["tests"]
    return [
        (
            case["id"],
            case["compatibility"],
            *(json.dumps(case[name], default=float) for name in ("original", "updated")),
        )
        for case in found
    ]


def label(kind, original, updated):
    """Return the label that both directions give."""
    backward, forward = not reads(kind, updated, original), not reads(kind, original, updated)
    return {(True, True): "both", (True, False): "backward", (False, True): "forward", (False, False): "none"}[
        backward, forward
    ]


def both(old, new):
    """Return whether the new reads the old, and the old the new."""
    old, new = json.dumps(old), json.dumps(new)
    return not differences(old, new), not differences(new, old)


def test_the_vectors_but_for_the_listed_ones():
    """145 cases, both directions of each; the list of differences is exact."""
    found = raw_cases("apicurio.json")
    told = [(number, name, wanted, label("JSON", old, new)) for number, (name, wanted, old, new) in enumerate(found)]
    assert [each for each in told if each[2] != each[3]] == DIFFERENCES
    assert (len(told), len(told) - len(DIFFERENCES)) == (145, 143)


def test_no_difference_calls_a_breaking_change_compatible():
    """Where the vectors say that a direction breaks, the checker says so too."""
    holds = {"both": {"backward", "forward"}, "backward": {"backward"}, "forward": {"forward"}, "none": set()}
    assert [each for each in DIFFERENCES if holds[each[3]] - holds[each[2]]] == []


def test_the_differences_are_explained():
    """Each differing case stands by its id in the page about compatibility."""
    page = DOCS.read_text(encoding="utf-8")
    assert [name for _, name, _, _ in DIFFERENCES if f"`{name}`" not in page] == []


def test_the_avro_vectors():
    """All four, by Avro's own checker."""
    found = raw_cases("apicurio-avro.json")
    assert [label("AVRO", old, new) for _, _, old, new in found] == [wanted for _, wanted, _, _ in found]
    assert Counter(wanted for _, wanted, _, _ in found) == {"backward": 2, "both": 1, "none": 1}


# -- the content model ------------------------------------------------------------------------------------------------

OPEN = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}
CLOSED = {**OPEN, "additionalProperties": False}


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        (OPEN, {**OPEN, "properties": {**OPEN["properties"], "b": {"type": "string"}}}, (False, True)),
        (CLOSED, {**CLOSED, "properties": {**CLOSED["properties"], "b": {"type": "string"}}}, (True, False)),
        (OPEN, {**OPEN, "properties": {}}, (True, False)),
        (CLOSED, {**CLOSED, "properties": {}, "required": []}, (False, False)),
        (CLOSED, {**CLOSED, "properties": {}}, (False, True)),  # which accepts nothing at all
        (OPEN, CLOSED, (False, True)),
        (OPEN, {**OPEN, "required": []}, (True, False)),
        (OPEN, {**OPEN, "title": "renamed", "description": "x", "$comment": "y", "examples": [1]}, (True, True)),
        (OPEN, {**OPEN, "properties": {"a": {"type": "boolean"}}}, (False, False)),
    ],
)
def test_open_models_are_taken_strictly(old, new, told):
    """A property added to an open model breaks: old data may hold that member with any value."""
    assert both(old, new) == told


# -- fail-closed ------------------------------------------------------------------------------------------------------

UNREADABLE = [
    "", "{", "[]", "1", '"text"', '{"type": "nothing"}', '{"a": 1, "a": 2}', '{"minimum": NaN}', '{"minimum": 1e999}',
    '{"minimum": ' + "9" * 500 + "}", '{"$schema": "http://example.test/other"}', '{"$schema": 7}',
    '{"not": ' * 80 + "true" + "}" * 80, "[" * 100_000, '{"required": "a"}',
    '{"patternProperties": {"(": true}}', '{"exclusiveMinimum": true}',
]  # fmt: skip


@pytest.mark.parametrize("text", UNREADABLE)
def test_what_cannot_be_read_is_incompatible(text):
    """Also with itself: there is nothing that could be said of it."""
    with pytest.raises(Unreadable):
        load(text)
    assert [each.partition(":")[0] for each in differences(text, "true")] == ["unreadable"]
    assert [each.partition(":")[0] for each in differences("true", text)] == ["unreadable"]


DRAFT_04 = "http://json-schema.org/draft-04/schema#"
UNDECIDABLE = {
    "a reference that leads out": {"$ref": "http://elsewhere.test/schema#"},
    "a reference that leads nowhere": {"$ref": "#/definitions/x"},
    "an anchor that is not there": {"$ref": "#x"},
    "a reference to what is no schema": {"$ref": "#/title", "title": "t"},
    "a reference to itself": {"definitions": {"a": {"$ref": "#/definitions/a"}}, "$ref": "#/definitions/a"},
    "references round in a circle": {
        "definitions": {"a": {"allOf": [{"$ref": "#/definitions/b"}]}, "b": {"anyOf": [{"$ref": "#/definitions/a"}]}},
        "$ref": "#/definitions/a",
    },
    "another base inside": {
        "definitions": {"a": {"$id": "http://elsewhere.test/a"}},
        "properties": {"a": {"$ref": "#/definitions/a"}},
    },
    "unevaluated members": {
        "$schema": "https://json-schema.org/draft/2020-12/schema", "type": "object", "unevaluatedProperties": False,
    },
    "a pattern that never ends": {"patternProperties": {"(a+)+$": {"type": "string"}}, "properties": {"a" * 40: {}}},
    "a pattern with many repetitions": {"patternProperties": {"a*a*a*a*b": {}}, "properties": {"a" * 200: {}}},
    "a pattern with many options": {"patternProperties": {"a?" * 30 + "a" * 30: {}}, "properties": {"a" * 30: {}}},
    "a pattern with many choices": {"patternProperties": {"(a|a)" * 30 + "b": {}}, "properties": {"a" * 30: {}}},
    "a reference to what no draft looked at": {"$ref": "#/x", "x": {"type": 5}},
    "a reference by a digit that is none": {"$ref": "#/allOf/²", "allOf": [{}]},
    "a reference by a number without end": {"$ref": "#/allOf/" + "9" * 5000, "allOf": [{}]},
    "a reference that is no text": {"$schema": DRAFT_04, "$ref": 5},
    "a keyword of a later draft": {"dependentSchemas": 5},
    "too many alternatives": {"allOf": [{"anyOf": [{"required": [f"{n}{m}"]} for m in "abcdefgh"]} for n in range(30)]},
}  # fmt: skip


@pytest.mark.parametrize("name", UNDECIDABLE)
def test_what_cannot_be_decided_is_incompatible(name):
    """Nothing is assumed of it; the very same text again is the same schema, and reads itself."""
    schema = UNDECIDABLE[name]
    text, changed = json.dumps(schema), json.dumps({**schema, "description": "changed", "maxItems": 3})
    assert differences(json.dumps({"maxItems": 4}), text)
    assert differences(changed, text) or name == "unevaluated members"
    assert differences(text, text) == []


@pytest.mark.parametrize("old", [{"type": "integer"}, {"$schema": DRAFT_04, "enum": [1]}])
@pytest.mark.parametrize("new", [{"type": "integer"}, {"anyOf": [{"type": "integer"}]}])
def test_to_draft_04_a_number_with_a_point_is_no_integer(old, new):
    """1.0 is accepted by the old and refused by the new."""
    new = {"$schema": DRAFT_04, **new}
    assert Draft4Validator(new).is_valid(1.0) is False
    assert differences(json.dumps(old), json.dumps(new))


def test_numbers_are_compared_to_the_last_digit():
    """Also past the 28 digits to which decimals are rounded unless one takes care."""
    old, new = ('{"maximum": 0.1234567890123456789012345678901%d}' % last for last in (2, 1))  # noqa: UP031 - braces
    assert differences(old, new)
    assert differences(new, old) == []


def test_a_comparison_ends_in_bounded_steps(monkeypatch):
    """A schema written to blow up is refused, not thought about for ever."""
    layers = {f"l{n}": {"allOf": [{"$ref": f"#/definitions/l{n + 1}"}] * 2} for n in range(40)}
    bomb = {"definitions": {**layers, "l40": {"type": "string"}}, "$ref": "#/definitions/l0"}
    many = ["undecidable: too many alternatives to compare"]
    assert differences(json.dumps(bomb), json.dumps({"type": "string", "minLength": 0, "maxLength": 5})) == many
    names, patterns = {f"n{n}": {} for n in range(900)}, {f"^n{n}$": {"type": "string"} for n in range(900)}
    tried = []
    monkeypatch.setattr(jsonschema_objects, "matches", lambda *pair: tried.append(pair) or matches(*pair))
    assert differences(json.dumps({"properties": names}), json.dumps({"patternProperties": patterns})) == many
    assert len(tried) <= (STEPS + 1) * jsonschema_objects._MATCHES_A_STEP  # of 810,000 that would have to be tried


def test_a_recursive_schema_is_proven_by_induction():
    """A tree with its leaf's limit relaxed reads the old trees; the other way round it is refused."""

    def tree(most):
        node = {
            "type": "object", "additionalProperties": False,
            "properties": {
                "name": {"type": "string", "maxLength": most},
                "children": {"type": "array", "items": {"$ref": "#/definitions/node"}},
            },
        }  # fmt: skip
        return {"$ref": "#/definitions/node", "definitions": {"node": node}}

    assert both(tree(5), tree(9)) == (True, False)


def test_no_more_than_twenty_reasons_are_told():
    """A message that nobody reads to its end helps nobody."""
    many = {"required": [f"m{number}" for number in range(50)]}
    assert len(differences("{}", json.dumps(many))) == 20


# -- modes ------------------------------------------------------------------------------------------------------------

ONE, TWO, THREE = ('{"maximum": %d}' % most for most in (1, 2, 3))  # noqa: UP031 - braces


@pytest.mark.parametrize(
    ("mode", "earlier", "new", "ok"),
    [
        ("NONE", [ONE], "[]", True),
        ("BACKWARD", [TWO], THREE, True),
        ("BACKWARD", [TWO], ONE, False),
        ("BACKWARD", [THREE, ONE], TWO, True),
        ("BACKWARD_TRANSITIVE", [THREE, ONE], TWO, False),
        ("FORWARD", [TWO], ONE, True),
        ("FORWARD", [TWO], THREE, False),
        ("FORWARD", [ONE, THREE], TWO, True),
        ("FORWARD_TRANSITIVE", [ONE, THREE], TWO, False),
        ("FULL", [TWO], THREE, False),
        ("FULL", [ONE, TWO], '{"maximum": 2.0}', True),
        ("FULL_TRANSITIVE", [ONE, TWO], '{"maximum": 2.0}', False),
        ("BACKWARD", [], ONE, True),
    ],
)
def test_modes(mode, earlier, new, ok):
    """Direction and reach of each; NONE looks at nothing."""
    assert (incompatibilities(("JSON", new), [("JSON", each) for each in earlier], mode) == []) is ok


def test_another_type_of_schema_cannot_follow():
    """What Avro wrote, no JSON Schema reads."""
    found = incompatibilities(("JSON", "true"), [("AVRO", '"string"')], "BACKWARD")
    assert found == ["a schema of type JSON cannot follow one of type AVRO"]


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"type": "nothing"}', '{"type": "record"}', "[" * 10_000, '"nothing"']
)
def test_avro_that_cannot_be_read_is_incompatible(text):
    """With everything."""
    assert [each.partition(":")[0] for each in reads("AVRO", text, '"string"')] == ["unreadable"] or text == "[]"
    assert reads("AVRO", text, '"string"')


def avro_record(*fields):
    """Return the text of an Avro record."""
    return json.dumps({"type": "record", "name": "r", "fields": list(fields)})


def named(kind, **more):
    """Return an Avro type of the name `n`."""
    return {"type": kind, "name": "n", **more}


IN_RECORD = named("record", fields=[{"name": "y", "type": "int"}])


@pytest.mark.parametrize(
    ("type_", "default"),
    [
        ("null", 0), ("boolean", "true"), ("boolean", 1), ("int", "s"), ("int", 1.5), ("int", 2**31), ("int", True),
        ("int", None), ("long", 2**63), ("float", "1"), ("double", True), ("string", 1), ("bytes", "\u0100"),
        (named("fixed", size=2), "a"), (named("enum", symbols=["A"]), "B"), ({"type": "array", "items": "int"}, {}),
        ({"type": "array", "items": "int"}, ["a"]), ({"type": "map", "values": "int"}, {"a": None}),
        (["int", "null"], None), (IN_RECORD, {}), (IN_RECORD, {"y": "s"}), (IN_RECORD, 1),
    ],
)  # fmt: skip
def test_an_avro_default_that_is_none_of_its_type_fills_nothing_in(type_, default):
    """A reader who meets old data without the field would fail over it: no successor of anything."""
    new = avro_record({"name": "x", "type": type_, "default": default})
    assert incompatibilities(("AVRO", new), [("AVRO", avro_record())], "BACKWARD")
    with pytest.raises(Unreadable, match=r"default of r\.x"):
        normal("AVRO", new)


def test_avro_defaults_deep_inside_are_looked_at():
    """Below arrays, maps, unions and records of records; a record that holds itself comes to an end."""
    inner = {"type": "record", "name": "n", "fields": [{"name": "y", "type": "int", "default": None}]}
    for within in ({"type": "array", "items": inner}, {"type": "map", "values": inner}, ["null", inner], inner):
        with pytest.raises(Unreadable, match=r"default of n\.y"):
            normal("AVRO", avro_record({"name": "x", "type": within}))
    assert normal("AVRO", avro_record({"name": "x", "type": ["null", "r"], "default": None}))


@pytest.mark.parametrize(
    ("type_", "default"),
    [
        ("null", None), ("int", -(2**31)), ("long", 2**63 - 1), ("float", 1), ("double", 1.5), ("string", ""),
        ("bytes", "\u00ff"), (named("fixed", size=1), "a"), (named("enum", symbols=["A"]), "A"),
        (["null", "int"], None), ({"type": "array", "items": ["int", "null"]}, [1]),
        ({"type": "map", "values": "int"}, {"a": 1}), (IN_RECORD, {"y": 1}),
        (named("record", fields=[{"name": "y", "type": "int", "default": 1}]), {}),
    ],
)  # fmt: skip
def test_an_avro_default_of_its_type_fills_in(type_, default):
    """So the field may be added."""
    new = avro_record({"name": "x", "type": type_, "default": default})
    assert incompatibilities(("AVRO", new), [("AVRO", avro_record())], "BACKWARD") == []


TIME = {"type": "long"}


def decimal(kind="bytes", precision=4, **more):
    """Return an Avro decimal."""
    return {"type": kind, "logicalType": "decimal", "precision": precision, **more}


@pytest.mark.parametrize(
    ("old", "new", "compatible"),
    [
        (decimal(scale=2), decimal(scale=3), False),
        (decimal(scale=2), decimal(precision=5, scale=2), False),
        (decimal(), decimal(scale=0), True),
        (decimal("fixed", name="n", size=4), decimal("fixed", name="n", size=4, scale=1), False),
        (
            {"type": "long", "logicalType": "timestamp-millis"},
            {"type": "long", "logicalType": "timestamp-micros"},
            False,
        ),
        ({"type": "int", "logicalType": "date"}, TIME | {"logicalType": "time-micros"}, False),
        ({"type": "int", "logicalType": "date"}, "int", True),
        ("int", {"type": "int", "logicalType": "date"}, True),
        ({"type": "string", "logicalType": "uuid"}, {"type": "string", "logicalType": "uuid"}, True),
    ],
)
@pytest.mark.parametrize("within", [lambda it: it, lambda it: ["null", it], lambda it: {"type": "array", "items": it}])
def test_the_same_avro_bytes_that_mean_something_else_are_incompatible(old, new, compatible, within):
    """A decimal of another scale, a time in another unit: they can be read, and every value is wrong."""
    was, now = (avro_record({"name": "x", "type": within(each)}) for each in (old, new))
    assert (incompatibilities(("AVRO", now), [("AVRO", was)], "BACKWARD") == []) is compatible


# -- properties -------------------------------------------------------------------------------------------------------

PAIRS = 250


def accepts(schema, value):
    """Return what the outside validator says; None where it fails itself (`additionalItems` beside `items: true`)."""
    try:
        return Draft7Validator(schema).is_valid(value)
    except TypeError:
        return None


@pytest.mark.parametrize("seed", range(2))
def test_compatible_is_a_proof(seed):
    """Whatever the old accepts, a new one that is called compatible accepts: the outside validator is asked."""
    make, proven, asked, wrong = Maker(seed), 0, 0, []
    for number in range(PAIRS):
        old = make.schema()
        new = make.schema() if number % 5 == 0 else make.changed(old)
        if number % 7 == 0:
            old = {"definitions": {"x": old}, "allOf": [{"$ref": "#/definitions/x"}]}
        if differences(json.dumps(old), json.dumps(new)):
            continue
        proven += 1
        for value in [make.value() for _ in range(25)]:
            if accepts(old, value):
                asked += 1
                wrong += [(old, new, value)] if accepts(new, value) is False else []
    assert wrong == []
    assert proven > PAIRS / 5 and asked > PAIRS, "nothing much was proven, so nothing much was tested"


@pytest.mark.parametrize("seed", range(2))
def test_a_schema_reads_itself(seed):
    """As it stands; and with an annotation more, every part of one that can be decided is proven anew."""
    make = Maker(seed)
    made = [json.dumps(make.schema()) for _ in range(100)]
    assert [text for text in made if differences(text, text)] == []


@pytest.mark.parametrize(("_", "_label", "original", "updated"), raw_cases("apicurio.json"))
def test_every_vector_reads_itself_under_another_title(_, _label, original, updated):
    """Reflexive by proof, not by comparing texts."""
    for text in (original, updated):
        schema = json.loads(text)
        if isinstance(schema, dict):
            assert differences(text, json.dumps({**schema, "title": "another"})) == []


RESTRICTIONS = [
    {"type": "string"}, {"enum": ["never"]}, {"minimum": 10**6}, {"maximum": -(10**6)}, {"required": ["new"]},
    {"minLength": 99}, {"maxItems": 0}, {"not": {"type": "string"}}, {"pattern": "^never$"}, {"multipleOf": 97},
    {"properties": {"new": {"type": "null"}}}, {"additionalProperties": False}, {"format": "uuid"},
    {"propertyNames": {"maxLength": 0}}, {"contains": {"const": "never"}}, {"oneOf": [{}, {}]}, {"uniqueItems": True},
    {"exclusiveMinimum": 10**6}, {"exclusiveMaximum": -(10**6)}, {"maxLength": 0}, {"minItems": 99},
    {"minProperties": 99}, {"maxProperties": 0}, {"const": "never"}, {"dependencies": {"a": ["new"]}},
    {"patternProperties": {"^x": False}}, {"contentEncoding": "base64"}, {"contentMediaType": "image/png"},
]  # fmt: skip


@pytest.mark.parametrize("restriction", RESTRICTIONS, ids=lambda each: next(iter(each)))
def test_a_restriction_added_is_never_backward(restriction):
    """What holds today must be taken tomorrow: beside anything that leaves room, and inside of it; the reverse is."""
    make = Maker(1)
    for _ in range(10):
        schema = {"properties": {"inside": make.schema()}}
        new = json.dumps({**schema, "allOf": [restriction]})
        assert differences(json.dumps(schema), new) != []
        assert differences(new, json.dumps(schema)) == []
