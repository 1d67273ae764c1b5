"""A new version of a registered schema that breaks the one before it, let in by switching the subject's check off.

A registry that checks refuses such a schema (409), so the fault is what a hurried producer does: compatibility of the
subject to NONE, then register. The schema is derived from the latest one and carries the injection's id, so that it
can be told from any other whoever looks. Withdrawing deletes it softly, then for good, and puts the subject's own
setting back, also to *none set*. The registry knows no lease: what a killed run leaves, `sim recover` takes away.
"""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

from pydantic import Field

from injectors._http import through
from sim.event import JSON
from sim.injector import InjectionError, Injector, Prepared, Probe, Receipt, Signal, Site
from sim.target import Model
from sim.wire import Client

#: A subject of the platform whose schema has a version before its latest.
SUBJECT = "mbp.quotes.v1-value"
_MARK = "sim injection"
_HOLD_S = 300


class Params(Model):
    """`incompatible=false` registers a version that breaks nothing: a half dose, legal, and never proven to bite."""

    incompatible: bool = Field(default=True, description="Whether the new version breaks the one before it.")
    subject: str = Field(
        default=SUBJECT, min_length=1, max_length=255, pattern=r"^[^/\x00-\x1f]+$",
        description="The registry's subject that gets the new version.",
    )  # fmt: skip


def _path(receipt: Receipt, *parts: str) -> str:
    subject = quote(str(receipt["subject"]), safe="")
    return "/".join(["/subjects", subject, "versions", *parts])


def _config(receipt: Receipt) -> str:
    return f"/config/{quote(str(receipt['subject']), safe='')}"


def _mark(receipt: Receipt) -> str:
    return f"{_MARK} {receipt['fault']}"


def _is_ours(receipt: Receipt, version: dict[str, Any]) -> bool:
    """Say whether a version carries the mark, whole: one injection's id may begin with another's."""
    return f'"{_mark(receipt)}"' in version["schema"]


async def _numbers(registry: Client, receipt: Receipt, deleted: bool) -> list[int]:
    """Return the versions of the subject, oldest first; none when it is not there."""
    asked = {"deleted": "true"} if deleted else None
    answer = await registry.ask("GET", _path(receipt), params=asked, accept=(200, 404))
    if answer.status == 404:
        return []
    found = answer.json
    if not isinstance(found, list) or not all(type(each) is int for each in found):
        raise InjectionError(
            f"GET {registry.base_url}{_path(receipt)}: expected a list of versions, got {found!r:.100}"
        )
    return sorted(each for each in found if isinstance(each, int))


async def _version(registry: Client, receipt: Receipt, named: str) -> dict[str, Any]:
    asked = {"deleted": "true"} if named != "latest" else None
    found = (await registry.ask("GET", _path(receipt, named), params=asked)).json
    if not isinstance(found, dict) or not isinstance(found.get("schema"), str):
        raise InjectionError(f"{registry.base_url}{_path(receipt, named)}: no schema in the answer: {found!r:.100}")
    return found


async def _level(registry: Client, receipt: Receipt) -> str | None:
    """Return the subject's own compatibility level, None when none is set."""
    answer = await registry.ask("GET", _config(receipt), accept=(200, 404))
    if answer.status == 404:
        return None
    level = answer.json.get("compatibilityLevel") if isinstance(answer.json, dict) else None
    if not isinstance(level, str):
        raise InjectionError(f"GET {registry.base_url}{_config(receipt)}: no level in the answer: {answer.json!r:.100}")
    return level


async def _ours(registry: Client, receipt: Receipt) -> list[int]:
    """Return the versions, soft-deleted ones too, that carry this injection's mark."""
    found = []
    for number in await _numbers(registry, receipt, True):
        if _is_ours(receipt, await _version(registry, receipt, str(number))):
            found.append(number)
    return found


async def _prepare(site: Site, params: Params) -> Prepared:
    receipt: Receipt = {
        "fault": site.id,
        "run": site.run_id,
        "subject": params.subject,
        "incompatible": params.incompatible,
    }
    async with through(site, "registry") as registry:
        live = await _numbers(registry, receipt, False)
        if not live:
            raise InjectionError(f"{registry.base_url}: there is no subject {params.subject!r} to bump")
        latest = await _version(registry, receipt, "latest")
        if f'"{_MARK} ' in latest["schema"]:
            raise InjectionError(f"{registry.base_url}: the latest {params.subject!r} is an injection's already")
        level = await _level(registry, receipt)
    receipt["versions"] = list(live)
    receipt["level"] = level
    receipt["schema_type"] = str(latest.get("schemaType", "AVRO"))
    receipt["schema"] = derived(latest["schema"], str(receipt["schema_type"]), _mark(receipt), params.incompatible)
    prior: JSON = {"level": level, "versions": list(live), "latest_id": latest.get("id")}
    return Prepared(receipt, (f"subject {params.subject}",), prior)


def derived(text: str, schema_type: str, mark: str, incompatible: bool) -> str:
    """Return a schema made from another, with a mark in it and, if so asked, a member of another type.

    Raises `InjectionError` for a schema that nothing is known of how to break.
    """
    try:
        schema = json.loads(text)
    except ValueError as error:
        raise InjectionError(f"the latest schema is not JSON: {error}") from error
    if not isinstance(schema, dict):
        raise InjectionError("the latest schema is no object, so it cannot carry the injection's mark")
    made = dict(schema)
    if schema_type == "JSON":
        made["$comment"] = mark
        return json.dumps(_broken_json(made) if incompatible else made)
    if schema_type == "AVRO":
        made["doc"] = mark
        return json.dumps(_broken_avro(made) if incompatible else made)
    raise InjectionError(f"nothing is known of how to break a schema of type {schema_type}")


def _broken_json(schema: dict[str, Any]) -> dict[str, Any]:
    """Give a property, a required one if there is one, another type: neither side reads the other any more."""
    properties = schema.get("properties")
    if not isinstance(properties, dict) or not properties:
        raise InjectionError("the latest schema has no properties, so none can be given another type")
    required = schema.get("required")
    wanted = [name for name in required if name in properties] if isinstance(required, list) else []
    name = (wanted or list(properties))[0]
    held = properties[name]
    other = "string" if isinstance(held, dict) and held.get("type") == "boolean" else "boolean"
    return {**schema, "properties": {**properties, name: {"type": other}}}


def _broken_avro(schema: dict[str, Any]) -> dict[str, Any]:
    """Give the first field of a record another type, which Avro does not promote to."""
    fields = schema.get("fields")
    if not isinstance(fields, list) or not fields or not isinstance(fields[0], dict):
        raise InjectionError("the latest schema is no record with fields, so none can be given another type")
    first = {name: value for name, value in fields[0].items() if name != "default"}
    first["type"] = "bytes" if first.get("type") == "boolean" else "boolean"
    return {**schema, "fields": [first, *fields[1:]]}


async def _apply(site: Site, receipt: Receipt) -> None:
    body: JSON = {"schema": receipt["schema"], "schemaType": receipt["schema_type"]}
    async with through(site, "registry") as registry:
        if receipt["incompatible"]:
            await registry.ask("PUT", _config(receipt), json={"compatibility": "NONE"})
        await registry.ask("POST", _path(receipt), json=body)


async def _effective(site: Site, receipt: Receipt) -> Probe:
    """The latest version is ours, and two of the registry's own answers say that it breaks the one before it."""
    async with through(site, "registry") as registry:
        live = await _numbers(registry, receipt, False)
        latest = await _version(registry, receipt, "latest")
        earlier = [each for each in live if each != latest.get("version")]
        new = _is_ours(receipt, latest) and bool(earlier)
        evidence: dict[str, JSON] = {
            "subject": receipt["subject"],
            "latest": latest.get("version"),
            "latest_is_new": new,
        }
        if not new:
            return Probe(False, evidence)
        compatible, why = await _compatible(registry, receipt, latest["schema"], earlier[-1])
        drift = (await registry.ask("GET", f"/drift/{quote(str(receipt['subject']), safe='')}")).json
    drifted = isinstance(drift, dict) and drift.get("drift") is True and drift.get("version") == latest.get("version")
    evidence |= {"predecessor": earlier[-1], "compatible": compatible, "why": why, "drift": drifted}
    return Probe(not compatible and drifted, evidence)


async def _compatible(registry: Client, receipt: Receipt, text: str, version: int) -> tuple[bool, JSON]:
    """Ask whether a schema may follow a version under the platform's declared policy, whatever the subject's level."""
    subject = quote(str(receipt["subject"]), safe="")
    path = f"/compatibility/subjects/{subject}/versions/{version}"
    body: JSON = {"schema": text, "schemaType": receipt["schema_type"]}
    found = (await registry.ask("POST", path, json=body, params={"verbose": "true", "level": "platform"})).json
    if not isinstance(found, dict) or not isinstance(found.get("is_compatible"), bool):
        raise InjectionError(f"POST {registry.base_url}{path}: no verdict in the answer: {found!r:.100}")
    messages = found.get("messages")
    return bool(found["is_compatible"]), messages[0] if isinstance(messages, list) and messages else None


async def _withdraw(site: Site, receipt: Receipt) -> None:
    async with through(site, "registry") as registry:
        for number in await _ours(registry, receipt):
            # Soft first, as the registry demands; both are 404 when an earlier attempt came so far.
            await registry.ask("DELETE", _path(receipt, str(number)), accept=(200, 404))
            await registry.ask("DELETE", _path(receipt, str(number)), params={"permanent": "true"}, accept=(200, 404))
        if await _level(registry, receipt) != receipt["level"]:
            if receipt["level"] is None:
                await registry.ask("DELETE", _config(receipt), accept=(200, 404))
            else:
                await registry.ask("PUT", _config(receipt), json={"compatibility": receipt["level"]})


async def _gone(site: Site, receipt: Receipt) -> Probe:
    """No version, not even a soft-deleted one, carries the mark, and the subject's level is what it was."""
    async with through(site, "registry") as registry:
        ours = await _ours(registry, receipt)
        level = await _level(registry, receipt)
        live = await _numbers(registry, receipt, False)
    evidence: dict[str, JSON] = {"ours": list(ours), "level": level, "versions": list(live)}
    return Probe(not ours and level == receipt["level"], evidence)


def _signal(params: Params) -> tuple[Signal, ...]:
    """Return the platform's gauge of drift: 1 from the registration on; 0 at a half dose."""
    points = tuple((float(second), float(params.incompatible)) for second in range(_HOLD_S + 1))
    return (Signal("schema_registry_drift", {"subject": params.subject}, points),)


injector = Injector(
    summary="a new version of a registered schema that breaks the one before it",
    params=Params,
    positional=("incompatible", "subject"),
    doors=("registry",),
    lease="none",
    prepare=_prepare,  # type: ignore[arg-type]  # called with an instance of `params` only
    apply=_apply,
    effective=_effective,
    withdraw=_withdraw,
    gone=_gone,
    signal=_signal,  # type: ignore[arg-type]
)
