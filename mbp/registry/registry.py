"""What the registry decides: what may be registered, what is deleted, and which subjects have drifted. Fail-closed.

Errors carry the numbers of Confluent's registry, whose clients know them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from mbp.registry.compatibility import KINDS, MODES, Kind, Mode, incompatibilities, normal
from mbp.registry.jsonschema_document import Unreadable
from mbp.registry.policy import Policy
from mbp.registry.store import GLOBAL, Store, Version, content_hash

DEFAULT_LEVEL: Mode = "BACKWARD"
_SUBJECT = re.compile(r"[^\x00-\x1f\x7f/]{1,255}")


class Refused(Exception):
    """The registry's no: HTTP status, Confluent's number, a stable word, and the text."""

    def __init__(self, status: int, number: int, code: str, message: str) -> None:
        """Keep the four parts of the answer."""
        super().__init__(message)
        self.status, self.number, self.code, self.message = status, number, code, message


def subject_missing(subject: str) -> Refused:
    """Return the refusal for a subject that is not there."""
    return Refused(404, 40401, "subject_not_found", f"Subject '{subject}' not found.")


def version_missing(version: object) -> Refused:
    """Return the refusal for a version that is not there."""
    return Refused(404, 40402, "version_not_found", f"Version {version} not found.")


def schema_missing() -> Refused:
    """Return the refusal for a schema that is not there."""
    return Refused(404, 40403, "schema_not_found", "Schema not found")


@dataclass(frozen=True)
class Drift:
    """How the latest version of a subject stands to the earlier under the platform's policy."""

    subject: str
    version: int
    versions: int
    policy: Mode
    messages: tuple[str, ...]

    @property
    def drifted(self) -> bool:
        """Whether the latest version breaks the policy."""
        return bool(self.messages)

    def show(self) -> dict[str, Any]:
        """Return it as it is answered."""
        return {
            "subject": self.subject, "version": self.version, "policy": self.policy, "drift": self.drifted,
            "messages": list(self.messages),
        }  # fmt: skip


class Registry:
    """The registry over one store. Single-threaded: every call runs to its end on the event loop."""

    def __init__(self, store: Store, policy: Policy) -> None:
        """Compute the drift of every subject."""
        self.store, self.policy = store, policy
        self.outcomes = dict.fromkeys(("registered", "known", "incompatible", "invalid"), 0)
        self._drift: dict[str, Drift] = {}
        for subject in store.subjects():
            self._judge(subject)

    # -- reading -------------------------------------------------------------------------------------------------

    def versions(self, subject: str, deleted: bool = False) -> list[Version]:
        """Return the versions of a subject, oldest first. Raises :class:`Refused` 40401 when there is none."""
        found = self.store.versions(subject, deleted)
        if not found:
            raise subject_missing(subject)
        return found

    def version(self, subject: str, named: str, deleted: bool = False) -> Version:
        """Return one version: a number, `latest` or -1. Raises :class:`Refused` 40401, 40402 or 42202."""
        number = self.number(named)
        found = self.versions(subject, deleted)
        if number is None:
            return found[-1]
        for each in found:
            if each.version == number:
                return each
        raise version_missing(number)

    @staticmethod
    def number(named: str) -> int | None:
        """Return the number of a version, None for the latest. Raises :class:`Refused` 42202."""
        if named in ("latest", "-1"):
            return None
        if not re.fullmatch(r"[0-9]{1,10}", named) or not 1 <= int(named) < 2**31:
            text = f"The specified version '{named:.40}' is not a valid version id. "
            text += 'Allowed values are between [1, 2^31-1] and the string "latest"'
            raise Refused(422, 42202, "invalid_version", text)
        return int(named)

    def schema(self, number: int) -> tuple[Kind, str]:
        """Return the schema with that id. Raises :class:`Refused` 40403."""
        # A number that fits no row is nobody's.
        found = self.store.schema(number) if 0 <= number < 2**63 else None
        if found is None:
            raise Refused(404, 40403, "schema_not_found", f"Schema {number} not found")
        return found

    def lookup(self, subject: str, kind: Kind, text: str, deleted: bool = False) -> Version:
        """Return the version of a subject that holds this schema. Raises :class:`Refused` 40401, 40403 or 42201."""
        found = self.versions(subject, deleted)
        held = self._held(found, self._hash(kind, text))
        if held is None:
            raise schema_missing()
        return held

    def holds(self, subject: str, kind: Kind, text: str) -> bool:
        """Say whether a subject has this schema, also in a soft-deleted version. Raises :class:`Refused` 42201."""
        return self._held(self.store.versions(subject, deleted=True), self._hash(kind, text)) is not None

    def level(self, subject: str) -> Mode:
        """Return the level that registering into a subject is held to."""
        return self.store.level(subject) or self.store.level(GLOBAL) or DEFAULT_LEVEL

    def drift(self) -> list[Drift]:
        """Return the drift of every subject with a version, by name; computed at the last change of each."""
        return [self._drift[name] for name in sorted(self._drift)]

    # -- registering ---------------------------------------------------------------------------------------------

    def register(self, subject: str, kind: Kind, text: str) -> int:
        """Return the schema's id, adding a version unless the subject has the schema already.

        Raises :class:`Refused` 42201 when it cannot be read and 409 when it breaks the subject's level.
        """
        self._check_name(subject)
        hashed = self._hash(kind, text)
        earlier = self.store.versions(subject)
        held = self._held(earlier, hashed)
        if held is not None:
            self.outcomes["known"] += 1
            return held.id
        found = incompatibilities((kind, text), [(each.kind, each.text) for each in earlier], self.level(subject))
        if found:
            self.outcomes["incompatible"] += 1
            raise Refused(
                409, 409, "incompatible", "Schema being registered is incompatible with an earlier schema for subject "
                f'"{subject}", details: [{"; ".join(found)}]'[:4000],
            )  # fmt: skip
        with self._changing(subject):
            number = self.store.add(subject, kind, text, hashed)
        self.outcomes["registered"] += 1
        return number

    def compatible(
        self, subject: str, kind: Kind, text: str, named: str | None, level: Mode | None = None
    ) -> list[str]:
        """Return what a schema would break of one version of a subject, or (None) of those its level looks at.

        `level` is asked for instead of the subject's own. Raises :class:`Refused` 40401, 40402, 42201 or 42202.
        """
        self._hash(kind, text)
        level = level or self.level(subject)
        against = self.versions(subject) if named is None else [self.version(subject, named)]
        return incompatibilities((kind, text), [(each.kind, each.text) for each in against], level)

    # -- deleting ------------------------------------------------------------------------------------------------

    def delete_version(self, subject: str, named: str, permanent: bool) -> int:
        """Delete a version, softly or for good, and return its number. Raises :class:`Refused` as Confluent's does."""
        number = self.number(named)
        found = self.versions(subject, deleted=True)
        live = [each for each in found if not each.deleted]
        if number is None and not live:
            raise subject_missing(subject)
        chosen = live[-1] if number is None else next((each for each in found if each.version == number), None)
        if chosen is None:
            raise version_missing(number)
        what = f"Subject '{subject}' Version {chosen.version}"
        if permanent and not chosen.deleted:
            text = f"{what} was not deleted first before being permanently deleted"
            raise Refused(404, 40407, "version_not_soft_deleted", text)
        if not permanent and chosen.deleted:
            text = f"{what} was soft deleted. Set permanent=true to delete permanently"
            raise Refused(404, 40406, "version_soft_deleted", text)
        with self._changing(subject):
            (self.store.delete if permanent else self.store.soft_delete)(subject, chosen.version)
        return chosen.version

    def delete_subject(self, subject: str, permanent: bool) -> list[int]:
        """Delete a subject, softly or for good, and return its versions. Raises :class:`Refused`."""
        found = self.versions(subject, deleted=True)
        live = [each for each in found if not each.deleted]
        if permanent and live:
            text = f"Subject '{subject}' was not deleted first before being permanently deleted"
            raise Refused(404, 40405, "subject_not_soft_deleted", text)
        if not permanent and not live:
            text = f"Subject '{subject}' was soft deleted. Set permanent=true to delete permanently"
            raise Refused(404, 40404, "subject_soft_deleted", text)
        chosen = found if permanent else live
        with self._changing(subject):
            for each in chosen:
                (self.store.delete if permanent else self.store.soft_delete)(subject, each.version)
            if permanent:
                self.store.set_level(subject, None)
        return [each.version for each in chosen]

    # -- levels --------------------------------------------------------------------------------------------------

    def set_level(self, subject: str, level: Any) -> Mode:
        """Set the level of a subject or (empty name) of all. Raises :class:`Refused` 42203 or 42208."""
        if subject != GLOBAL:
            self._check_name(subject)
        known = self.known_level(level)
        with self.store.transaction():
            self.store.set_level(subject, known)
        return known

    @staticmethod
    def known_level(level: Any) -> Mode:
        """Return a level as it is spelled here. Raises :class:`Refused` 42203 for what is none."""
        for mode in MODES:
            if isinstance(level, str) and level.upper() == mode:
                return mode
        text = f"Invalid compatibility level. Valid values are {', '.join(MODES).lower()}"
        raise Refused(422, 42203, "invalid_compatibility_level", text)

    def unset_level(self, subject: str) -> Mode:
        """Unset the level of a subject or of all, and return what it was. Raises :class:`Refused` 40408."""
        held = self.store.level(subject)
        if held is None:
            if subject == GLOBAL:
                return DEFAULT_LEVEL
            raise self.no_level(subject)
        with self.store.transaction():
            self.store.set_level(subject, None)
        return held

    @staticmethod
    def no_level(subject: str) -> Refused:
        """Return the refusal for a subject without a level of its own."""
        text = f"Subject '{subject}' does not have subject-level compatibility configured"
        return Refused(404, 40408, "no_subject_level", text)

    # -- inside --------------------------------------------------------------------------------------------------

    @staticmethod
    def _check_name(subject: str) -> None:
        if not _SUBJECT.fullmatch(subject):
            raise Refused(422, 42208, "invalid_subject", f"The specified subject '{subject:.80}' is not a valid.")

    def _hash(self, kind: Kind, text: str) -> str:
        try:
            return content_hash(kind, normal(kind, text))
        except Unreadable as error:
            self.outcomes["invalid"] += 1
            raise Refused(422, 42201, "invalid_schema", f"Invalid schema of type {kind}: {error}") from None

    @staticmethod
    def _held(versions: list[Version], hashed: str) -> Version | None:
        return next((each for each in reversed(versions) if each.hash == hashed), None)

    @contextmanager
    def _changing(self, subject: str) -> Iterator[None]:
        """Change a subject in one transaction, and judge it anew by what then stands in the store."""
        try:
            with self.store.transaction():
                yield
        finally:
            self._judge(subject)

    def _judge(self, subject: str) -> None:
        versions = self.store.versions(subject)
        if not versions:
            self._drift.pop(subject, None)
            return
        policy = self.policy.of(subject)
        *earlier, latest = [(each.kind, each.text) for each in versions]
        messages = incompatibilities(latest, earlier, policy)
        self._drift[subject] = Drift(subject, versions[-1].version, len(versions), policy, tuple(messages))


def kind_of(value: Any) -> Kind:
    """Return a schema type as it is spelled here (absent: AVRO). Raises :class:`Refused` 42201."""
    for kind in KINDS:
        if value == kind or (value is None and kind == "AVRO"):
            return kind
    raise Refused(422, 42201, "invalid_schema", f"Invalid schema type {value!r:.40}: use one of {', '.join(KINDS)}")
