"""The registry over a real socket against Confluent's own client, which knows nothing of us."""

from __future__ import annotations

import pytest
from confluent_kafka.schema_registry import Schema, SchemaRegistryClient, ServerConfig
from confluent_kafka.schema_registry.error import SchemaRegistryError

from tests.mbp.registries import QUOTES, schema, serving

ONE, WIDER, BREAKING = (
    Schema(schema(**keywords)["schema"], "JSON")
    for keywords in ({}, {"properties": {"a": {"type": ["string", "null"]}}}, {"properties": {"a": {"type": "null"}}})
)
AVRO = Schema('{"type": "record", "name": "r", "fields": []}', "AVRO")


@pytest.fixture
def client(tmp_path):
    """The client of a registry with the platform's subjects."""
    with serving(tmp_path, seeded=True) as url, SchemaRegistryClient({"url": url, "max.retries": 0}) as client:
        yield client


def refused(work, *arguments):
    """Return status and number of the client's error."""
    with pytest.raises(SchemaRegistryError) as told:
        work(*arguments)
    return told.value.http_status_code, told.value.error_code


def test_the_official_client_reads_and_registers(client):
    """Subjects, ids, versions, lookup, latest, both types of schema."""
    assert QUOTES in client.get_subjects()
    assert client.get_versions(QUOTES) == [1, 2]
    first = client.register_schema("s", ONE)
    assert client.register_schema("s", ONE) == first
    second = client.register_schema("s", WIDER)
    latest = client.get_latest_version("s")
    assert (latest.subject, latest.version, latest.schema_id, latest.schema) == ("s", 2, second, WIDER)
    assert client.get_schema(first) == ONE
    assert client.lookup_schema("s", WIDER).version == 2
    assert client.get_version("s", 1).schema == ONE
    assert [(each.subject, each.version) for each in client.get_schema_versions(first)] == [("s", 1)]
    assert client.get_subjects_by_schema_id(first) == ["s"]
    assert client.get_schema_types() == ["JSON", "AVRO"]
    avro = client.register_schema("avro", AVRO)
    assert client.get_schema(avro) == AVRO


def test_the_official_client_understands_the_refusals(client):
    """409 for a breaking schema, 42201 for none, 40401 to 40403 for what is not there."""
    client.register_schema("s", ONE)
    assert refused(client.register_schema, "s", BREAKING) == (409, 409)
    assert refused(client.register_schema, "s", Schema("{", "JSON")) == (422, 42201)
    assert refused(client.get_versions, "nothing") == (404, 40401)
    assert refused(client.get_version, "s", 7) == (404, 40402)
    assert refused(client.lookup_schema, "s", WIDER) == (404, 40403)
    assert refused(client.get_schema, 999) == (404, 40403)
    assert client.test_compatibility("s", BREAKING) is False
    assert client.test_compatibility("s", WIDER) is True
    assert client.test_compatibility_all_versions("s", WIDER) is True


def test_the_official_client_sets_levels_and_deletes(client):
    """NONE lets it in; deleted softly, then for good; the level is gone with its deletion."""
    client.register_schema("s", ONE)
    assert client.get_config().compatibility_level == "BACKWARD"
    assert refused(client.get_config, "s") == (404, 40408)
    client.set_compatibility("s", "NONE")
    assert client.get_compatibility("s") == "NONE"
    client.register_schema("s", BREAKING)
    assert client.delete_version("s", 2) == 2
    assert client.delete_version("s", 2, True) == 2
    client.delete_config("s")
    assert refused(client.get_config, "s") == (404, 40408)
    assert refused(client.set_config, "s", ServerConfig()) == (422, 42203)
    assert refused(client.delete_subject, "s", True) == (404, 40405)
    assert client.delete_subject("s") == [1]
    assert client.delete_subject("s", permanent=True) == [1]
    assert "s" not in client.get_subjects(deleted=True)
