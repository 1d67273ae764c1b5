"""Points a program that was built for one absolute folder at the copy of that folder it was unpacked with.

Debian's Alertmanager (0.25) opens its default templates below ``/usr/share`` and does not start without them, whatever
its configuration says. Unpacked without root, the templates lie in our folder instead. The path is replaced, in our
copy of the program, by a relative one of the same length, and a launcher starts the program where that path leads.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path


def relocate(program: Path, root: Path, folders: Sequence[str]) -> bool:
    """Replace each of `folders` in `program` by the one of the same path below `root`; say whether any was there.

    A folder that was not unpacked below `root` is left as it is. The program then has to be started in `root`.
    """
    if not folders or not program.is_file():
        return False
    content = program.read_bytes()
    changed = content
    for folder in folders:
        inside = folder.lstrip("/")
        if (root / inside).is_dir():
            first, slash, rest = inside.partition("/")
            changed = changed.replace(folder.encode(), f"{first}/{slash}{rest}".encode())
    if changed == content:
        return False
    assert len(changed) == len(content), "a program's strings have a fixed place"
    mode = program.stat().st_mode
    program.unlink()  # dpkg may have made a hard link of it
    program.write_bytes(changed)
    program.chmod(mode)
    return True


def launcher(root_from_here: Path, program: Path) -> str:
    """Return a script that starts `program` (relative to the root) in the root; paths are relative to the script.

    The program's own relative arguments would count from the root, so they have to be absolute.
    """
    return (
        "#!/bin/sh\n"
        "# Made by `sim setup`: this program looks for its own files relative to the folder it was unpacked in.\n"
        f'cd -- "$(dirname -- "$0")"/{shlex.quote(root_from_here.as_posix())} || exit 1\n'
        f'exec ./{shlex.quote(program.as_posix())} "$@"\n'
    )
