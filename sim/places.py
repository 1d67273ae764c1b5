"""Where things stand on this machine: the project's folder, its state, its runs, and the data shipped with `sim`."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

MARKER = "sim.toml"
DISTRIBUTION = "sim-harness"


@dataclass(frozen=True, slots=True)
class Places:
    """The folders one call of `sim` works with.

    `scenario_dirs` and `compose_dirs` are searched in order: the project's own folder first, then the shipped copy.
    Only `root` and the shipped folders need exist; whoever writes makes the rest.
    """

    root: Path
    state: Path
    runs: Path
    scenario_dirs: tuple[Path, ...]
    compose_dirs: tuple[Path, ...]

    @property
    def tools(self) -> Path:
        """The folder of the tools that `sim setup` brought."""
        return self.state / "tools"

    @property
    def stacks(self) -> Path:
        """The folder with one folder a stack."""
        return self.state / "stacks"

    def make_state(self) -> Path:
        """Make the state folder, invisible to git, and return it. Raises `OSError` when it cannot be written."""
        self.state.mkdir(parents=True, exist_ok=True)
        ignore = self.state / ".gitignore"
        if not ignore.exists():
            ignore.write_text("*\n", encoding="utf-8")
        return self.state

    def find(self, name: str) -> Path:
        """Return the file that a profile calls `name`, such as ``compose/local.yaml``.

        An absolute path is taken as it is; else it is looked for below the project's root, then, for ``compose/…`` and
        ``scenarios/…``, in the shipped copies. Raises `FileNotFoundError` naming every place that was tried.
        """
        tried = list(self._candidates(name))
        for path in tried:
            if path.is_file():
                return path.resolve()
        raise FileNotFoundError(f"no file {name}; looked at: {', '.join(str(path) for path in tried)}")

    def _candidates(self, name: str) -> Iterable[Path]:
        yield self.root / name
        head, _, rest = name.partition("/")
        if rest and not Path(name).is_absolute():
            for folder in {"compose": self.compose_dirs, "scenarios": self.scenario_dirs}.get(head, ()):
                if folder / rest != self.root / name:
                    yield folder / rest


def is_root(folder: Path) -> bool:
    """Say whether `folder` is a project's root: it has a ``sim.toml`` or our own ``pyproject.toml``."""
    if (folder / MARKER).is_file():
        return True
    try:
        project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8")).get("project", {})
    except (OSError, ValueError):  # no such file, or somebody else's broken one: either way not ours
        return False
    return isinstance(project, dict) and project.get("name") == DISTRIBUTION


def shipped(kind: str, package: Path | None = None) -> Path | None:
    """Return the folder of the data shipped as `kind` (``scenarios``, ``compose``), or None.

    In a wheel it stands inside the package, in an editable install beside it.
    """
    home = Path(__file__).parent if package is None else package
    for folder in (home / "_shipped" / kind, home.parent / kind):
        if folder.is_dir():
            return folder.resolve()
    return None


def places(cwd: Path | None = None) -> Places:
    """Return the places seen from `cwd` (default: the current folder): the nearest project upward, else `cwd`."""
    start = Path(os.path.abspath(cwd or Path.cwd()))  # noqa: PTH100 (symlinks stay as the user wrote them)
    root = next((folder for folder in (start, *start.parents) if is_root(folder)), start)
    return Places(root, root / ".sim", root / "runs", _dirs(root, "scenarios"), _dirs(root, "compose"))


def _dirs(root: Path, kind: str) -> tuple[Path, ...]:
    own, copy = root / kind, shipped(kind)
    return (own,) if copy is None or copy == own.resolve() else (own, copy)
