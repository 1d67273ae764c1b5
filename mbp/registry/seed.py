"""The platform's own subjects, registered at the start from the schema files that the services are built with.

`events/v1/TYPE.json` becomes subject `mbp.events.v1.TYPE-value`; `quotes/vA.B.C.json` become the versions, in that
order, of `mbp.quotes.vA-value`. What a subject holds already, also soft-deleted, is left as it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from mbp._service import StartRefused
from mbp.registry.registry import Refused, Registry

DEFAULT_SEED = Path(__file__).parent.parent / "schemas" / "mbp"
_VERSION = re.compile(r"v(\d+)\.(\d+)\.(\d+)")


def files(folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield subject and file of every schema in the folder, versions of a subject in their order."""
    for path in sorted(folder.glob("events/v1/*.json")):
        yield f"mbp.events.v1.{path.stem}-value", path
    versions = [(match, path) for path in folder.glob("quotes/v*.json") if (match := _VERSION.fullmatch(path.stem))]
    for match, path in sorted(versions, key=lambda each: tuple(map(int, each[0].groups()))):
        yield f"mbp.quotes.v{match[1]}-value", path


def sow(registry: Registry, folder: Path = DEFAULT_SEED) -> None:
    """Register what is missing, and give each new subject its level of the platform's policy where that names one.

    Raises :class:`StartRefused` naming the file that cannot be read, or breaks the version before it.
    """
    if not folder.is_dir():
        raise StartRefused(f"{folder} is no folder; give the platform's schemas with --seed")
    for subject, path in files(folder):
        new = not registry.store.versions(subject, deleted=True)
        try:
            text = path.read_text(encoding="utf-8")
            if new and subject in registry.policy.subjects:
                registry.set_level(subject, registry.policy.subjects[subject])
            if new or not registry.holds(subject, "JSON", text):
                registry.register(subject, "JSON", text)
        except (OSError, UnicodeDecodeError) as error:
            raise StartRefused(f"{path}: cannot be read: {error}") from None
        except Refused as error:
            raise StartRefused(f"{path}: {error.message}") from None
