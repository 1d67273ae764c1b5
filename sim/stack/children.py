"""Makes the children of a stack from its file, and the folder they work in."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import sim
from sim.stack.child import Child
from sim.stack.refs import Refs
from sim.stack.spec import Once, Process
from sim.stack.state import Home


def make(name: str, part: Process | Once, refs: Refs, env: dict[str, str], home: Home, source: str) -> Child:
    """Return the child that `part` of the stack file `source` describes, with every reference filled in."""
    where = f"{source}: {name}"
    command = [refs.text(word, f"{where}.command") for word in part.command]
    own = env | {key: refs.text(text, f"{where}.env.{key}") for key, text in part.env.items()}
    log = home.logs / f"{name}.log"
    if isinstance(part, Once):
        return Child(name, command, own, home.work, log, timeout_s=part.timeout, after=part.after, once=True)
    ready, http, tcp = part.ready, None, None
    if ready is not None:
        http = None if ready.http is None else refs.text(ready.http, f"{where}.ready")
        tcp = None if ready.tcp is None else refs.text(ready.tcp, f"{where}.ready")
    return Child(
        name,
        command,
        own,
        home.work,
        log,
        http=http,
        tcp=tcp,
        timeout_s=60.0 if ready is None else ready.timeout,
        after=part.after,
        restart=part.restart == "on-failure",
    )


def own_path() -> dict[str, str]:
    """Return the environment with which another Python finds the same `sim`: none where it is installed."""
    root = Path(sim.__file__).resolve().parent.parent
    if root.name in ("site-packages", "dist-packages"):
        return {}
    before = os.environ.get("PYTHONPATH", "")
    if str(root) in before.split(os.pathsep):
        return {"PYTHONPATH": before}
    return {"PYTHONPATH": os.pathsep.join(filter(None, (str(root), before)))}


def empty(folder: Path) -> None:
    """Make `folder` anew (0700), with nothing in it."""
    remove(folder)
    folder.mkdir(mode=0o700, parents=True)


def remove(folder: Path) -> None:
    """Remove `folder` and all below, if it is there; say on standard error what could not be removed."""

    def report(_call: object, path: str, error: object) -> None:
        print(f"could not remove {path}: {error}", file=sys.stderr, flush=True)

    if folder.exists():
        shutil.rmtree(folder, onerror=report)
