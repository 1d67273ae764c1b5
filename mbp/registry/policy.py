"""The platform's declared policy: by which level a subject's latest version is judged against the earlier ones."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import yaml

from mbp._service import StartRefused
from mbp.registry.compatibility import MODES, Mode

DEFAULT_POLICY = Path(__file__).with_name("policy.yaml")


@dataclass(frozen=True)
class Policy:
    """The level of every subject: its own, or the default. None of them is NONE."""

    default: Mode = "BACKWARD"
    subjects: dict[str, Mode] = field(default_factory=dict)

    def of(self, subject: str) -> Mode:
        """Return the level that a subject is held to."""
        return self.subjects.get(subject, self.default)


def load(path: Path = DEFAULT_POLICY) -> Policy:
    """Read a policy file. Raises :class:`StartRefused` naming what is wrong: without a policy nothing is judged."""
    try:
        written = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise StartRefused(f"{path}: cannot be read: {error}") from None
    if not isinstance(written, dict) or set(written) - {"subjects"} != {"version", "default"}:
        raise StartRefused(f"{path}: expected version, default and perhaps subjects")
    subjects = written.get("subjects") or {}
    if written["version"] != 1 or not isinstance(subjects, dict):
        raise StartRefused(f"{path}: expected version 1, and subjects as a mapping")
    for name, level in {"default": written["default"], **subjects}.items():
        if level not in MODES or level == "NONE":
            raise StartRefused(f"{path}: {name}: {level!r} is none of {', '.join(MODES[1:])}")
    return Policy(written["default"], dict(subjects))
