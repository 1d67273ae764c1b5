"""The contract as a consumer holds it: an OpenAPI document turned into checks of one answer.

A consumer ignores what it does not know, so a field that is *added* violates nothing although the published objects are
closed; a field that is missing, has another type or another form does.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError
from referencing import Registry
from referencing.jsonschema import DRAFT202012

URI = "urn:contract"
SHOWN = 120  # characters of a value that is shown
LOOKED_AT = 50  # entries of a list that are looked at: a round costs the same however many there are


@dataclass(frozen=True, slots=True)
class Violation:
    """One way in which an answer is not as the contract says; ``path`` is a JSON path, or the name of a header."""

    path: str
    expected: str
    actual: str


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back: status, headers (names in lower case), body as it came."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def release(self) -> str | None:
        """The release that answered, when it says so."""
        return self.headers.get("x-mbp-release")


class ContractUnusable(Exception):
    """The file is not a contract that can be held against an answer; the text says why."""


class Contract:
    """One OpenAPI 3.1 document, by its title."""

    def __init__(self, document: dict[str, Any]) -> None:
        """Compile the answers of every operation; raises :class:`ContractUnusable`."""
        try:
            self.name = str(document["info"]["title"])
            paths = document["paths"]
            self._answers = {
                (method.upper(), path): {int(status): found for status, found in operation["responses"].items()}
                for path, operations in paths.items()
                for method, operation in operations.items()
            }
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ContractUnusable(f"not an OpenAPI document with paths and answers: {error!r}") from None
        registry: Registry[Any] = Registry().with_resource(URI, DRAFT202012.create_resource(_tolerant(document)))
        self._checks = {
            (*where, status, media): Draft202012Validator({"$ref": _pointer(where, status, media)}, registry=registry)
            for where, answers in self._answers.items()
            for status, found in answers.items()
            for media in found.get("content", {})
        }

    @classmethod
    def load(cls, path: Path) -> Contract:
        """Read a contract from its file; raises :class:`ContractUnusable`."""
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ContractUnusable(f"{path}: {error}") from None
        if not isinstance(document, dict):
            raise ContractUnusable(f"{path}: not an object")
        return cls(document)

    def check(self, method: str, path: str, answer: Answer) -> tuple[Any, list[Violation]]:
        """Return the body and how the answer to ``method path`` (as the document spells it) violates the contract.

        The body is None where it is no JSON. Raises :class:`KeyError` when the contract has no such operation.
        """
        answers = self._answers[(method, path)]
        if answer.status not in answers:
            known = ", ".join(map(str, sorted(answers)))
            return None, [Violation("status", f"one of {known}", str(answer.status))]
        media = answer.headers.get("content-type", "").partition(";")[0].strip().lower()
        validator = self._checks.get((method, path, answer.status, media))
        if validator is None:
            declared = sorted(key[3] for key in self._checks if key[:3] == (method, path, answer.status))
            return None, [Violation("content-type", " or ".join(declared), media or "none")]
        try:
            body = json.loads(answer.body, parse_constant=_no_constant)
        except (ValueError, RecursionError):
            return None, [Violation("$", "JSON", shown(answer.body.decode("utf-8", "backslashreplace")))]
        return body, list(dict.fromkeys(_told(validator.iter_errors(_beginning(body)))))


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _pointer(where: tuple[str, str], status: int, media: str) -> str:
    method, path = where
    parts = ("paths", path, method.lower(), "responses", str(status), "content", media, "schema")
    # Both escapes: JSON pointer first, then what a URI fragment may not hold as it is.
    escaped = (part.replace("~", "~0").replace("/", "~1") for part in parts)
    return f"{URI}#/" + "/".join(part.replace("{", "%7B").replace("}", "%7D") for part in escaped)


def _tolerant(node: Any) -> Any:
    """Return a copy of a document whose objects are open."""
    if isinstance(node, dict):
        return {
            key: _tolerant(value)
            for key, value in node.items()
            if not (key == "additionalProperties" and value is False)
        }
    return [_tolerant(value) for value in node] if isinstance(node, list) else node


def _beginning(body: Any) -> Any:
    """Return a body with its lists cut to what is looked at."""
    if isinstance(body, dict):
        return {key: value[:LOOKED_AT] if isinstance(value, list) else value for key, value in body.items()}
    return body


def _told(errors: Iterator[ValidationError]) -> Iterator[Violation]:
    for error in errors:
        wanted: Any = error.validator_value
        instance: Any = error.instance
        if error.validator == "required":
            absent = (name for name in wanted if name not in instance)
            yield from (Violation(f"{error.json_path}.{name}", "present", "absent") for name in absent)
        else:
            yield Violation(error.json_path, f"{error.validator}: {shown(wanted)}", shown(instance))


def shown(value: Any) -> str:
    """Return a value as JSON, cut to what fits a line."""
    text = json.dumps(value, ensure_ascii=True, sort_keys=True)
    return text if len(text) <= SHOWN else text[: SHOWN - 1] + "…"
