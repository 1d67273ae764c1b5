"""Brings a tool into the tools folder: a Debian package unpacked without root, or a release archive of known digest.

Everything is made in a folder of its own below the tools folder and becomes visible, by one link a program in
``bin/``, only when the program has said its version. What fails leaves nothing.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tarfile
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Set
from pathlib import Path

from sim.tools import Archive, Tool, Tools, ask, machine, system_names
from sim.tools_relocate import launcher, relocate

_APT_TIMEOUT_S = 300.0
_NET_TIMEOUT_S = 30.0
_DOWNLOAD_TIMEOUT_S = 900.0
_MAX_ARCHIVE_BYTES = 400 << 20
_MAX_PROGRAM_BYTES = 400 << 20
_NEW = ".new-"


class NotSupplied(Exception):
    """A route did not bring the tool; the message says why."""


class Supply:
    """The routes into one tools folder, whose lock the caller holds. Used as a context: at its end nothing half-made
    stays, at its beginning what a killed setup left half-made is removed.
    """

    def __init__(self, tools: Tools, folder: Path, say: Callable[[str], None]) -> None:
        self._tools, self._folder, self._say = tools, folder, say
        self._apt: list[str] | None = None

    def __enter__(self) -> Supply:
        self._clean()
        return self

    def __exit__(self, *_: object) -> None:
        self._clean()

    def _clean(self) -> None:
        for left in self._folder.glob(f"{_NEW}*"):
            shutil.rmtree(left)

    def bring(self, name: str) -> tuple[str, ...]:
        """Bring the tool `name`; return () when it is here now, else why each route did not bring it."""
        reasons = []
        for route in (self._by_debian, self._by_archive):
            made = Path(tempfile.mkdtemp(prefix=_NEW, dir=self._folder))
            try:
                route(name, self._tools.tools[name], made)
            except NotSupplied as reason:
                reasons.append(str(reason))
            else:
                return ()
        return tuple(reasons)

    def _by_debian(self, name: str, tool: Tool, made: Path) -> None:
        if tool.debian is None:
            raise NotSupplied("no Debian package named")
        if "debian" not in system_names() or not shutil.which("apt-get") or not shutil.which("dpkg"):
            raise NotSupplied("not a Debian or Ubuntu system")
        if self._apt is None:
            self._say("reading the system's package lists into a folder of our own")
            self._apt = self._updated()
        package = tool.debian.package
        self._say(f"{name}: downloading the Debian package {package}")
        _command([*self._apt, "download", package], made)
        packages = list(made.glob("*.deb"))
        if len(packages) != 1:
            raise NotSupplied(f"apt-get download brought {len(packages)} packages of {package}")
        _command(["dpkg", "-x", str(packages[0]), str(made / "root")], made)
        label = packages[0].stem
        packages[0].unlink()
        programs = made / "root" / "usr" / "bin"
        moved = {path.name for path in programs.iterdir() if relocate(path, made / "root", tool.debian.relocate)}
        _publish(name, self._tools, made, label, programs, self._say, moved)

    def _updated(self) -> list[str]:
        """Return an apt-get that keeps its state and cache in our folder, its package lists read."""
        work = Path(tempfile.mkdtemp(prefix=f"{_NEW}apt-", dir=self._folder))
        for part in ("lists/partial", "cache/archives/partial"):
            (work / part).mkdir(parents=True)
        options = (
            f"Dir::State::Lists={work / 'lists'}",
            f"Dir::Cache={work / 'cache'}",
            "APT::Sandbox::User=",
            "Debug::NoLocking=1",
            "Acquire::Languages=none",
            "Acquire::Retries=2",
            f"Acquire::http::Timeout={_NET_TIMEOUT_S:.0f}",
        )
        apt = ["apt-get", "-qq", *(f"-o{option}" for option in options)]
        _command([*apt, "update"], work)
        return apt

    def _by_archive(self, name: str, tool: Tool, made: Path) -> None:
        fitting = [archive for archive in tool.archives if (archive.system, archive.machine) == machine()]
        if not fitting:
            raise NotSupplied(f"no release archive named for {' '.join(machine())}")
        archive = fitting[0]
        self._say(f"{name}: downloading {archive.url}")
        file = made / "archive"
        download(archive, file)
        programs = made / "root" / "bin"
        programs.mkdir(parents=True)
        _unpack(file, archive.member, programs / tool.names[0])
        file.unlink()
        _publish(name, self._tools, made, f"{name}-{archive.sha256[:12]}", programs, self._say)


def _command(argv: list[str], cwd: Path) -> None:
    try:
        done = subprocess.run(
            argv, cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True, timeout=_APT_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotSupplied(f"{argv[0]}: {error}") from error
    if done.returncode != 0:
        lines = [line for line in done.stderr.decode("utf-8", "replace").splitlines() if line.strip()]
        raise NotSupplied(f"{argv[0]} failed ({done.returncode}): {' / '.join(lines[-3:])}")


def download(archive: Archive, file: Path) -> None:
    """Fetch `archive` to `file`. Raises `NotSupplied`, leaving no file, unless the digest is as declared."""
    digest, size = hashlib.sha256(), 0
    deadline = time.monotonic() + _DOWNLOAD_TIMEOUT_S
    try:
        with urllib.request.urlopen(archive.url, timeout=_NET_TIMEOUT_S) as answer, file.open("wb") as out:  # noqa: S310
            while chunk := answer.read(1 << 20):
                size += len(chunk)
                if size > _MAX_ARCHIVE_BYTES:
                    raise NotSupplied(f"{archive.url} is larger than {_MAX_ARCHIVE_BYTES >> 20} MiB")
                if time.monotonic() > deadline:
                    raise NotSupplied(f"{archive.url} took longer than {_DOWNLOAD_TIMEOUT_S:g} s")
                digest.update(chunk)
                out.write(chunk)
        if digest.hexdigest() != archive.sha256:
            raise NotSupplied(
                f"{archive.url} has the wrong digest: declared {archive.sha256}, downloaded {digest.hexdigest()}"
            )
    except (OSError, ValueError) as error:
        file.unlink(missing_ok=True)
        raise NotSupplied(f"{archive.url}: {error}") from error
    except NotSupplied:
        file.unlink(missing_ok=True)
        raise


def _unpack(file: Path, member: str, target: Path) -> None:
    """Copy one file out of the archive. Nothing else of it touches the disk, so its paths and links cannot matter."""
    try:
        with tarfile.open(file) as archive:
            info = archive.getmember(member)
            source = archive.extractfile(info) if info.isreg() else None
            if source is None:
                raise NotSupplied(f"{member} is no plain file in the archive")
            if info.size > _MAX_PROGRAM_BYTES:
                raise NotSupplied(f"{member} is larger than {_MAX_PROGRAM_BYTES >> 20} MiB")
            with source, target.open("wb") as out:
                shutil.copyfileobj(source, out)
    except KeyError as error:
        raise NotSupplied(f"no {member} in the archive") from error
    except (tarfile.TarError, OSError, EOFError) as error:
        raise NotSupplied(f"the archive cannot be read: {error}") from error
    target.chmod(0o755)


def _publish(
    name: str,
    tools: Tools,
    made: Path,
    label: str,
    folder: Path,
    say: Callable[[str], None],
    relocated: Set[str] = frozenset(),
) -> None:
    """Move what was made to its place and link its programs: the one asked for and any other tool of the file.

    The programs in `folder` whose names are in `relocated` get a launcher instead of a link.
    """
    programs = {
        each: folder / program
        for each, tool in tools.tools.items()
        for program in tool.names
        if (folder / program).is_file()
    }
    if name not in programs:
        raise NotSupplied(f"{label} holds no {' or '.join(tools.tools[name].names)}")
    versions = {}
    for each, path in programs.items():
        version, note = ask(path, tools.tools[each].version)
        if version is None and each == name:
            raise NotSupplied(f"{path.name} from {label} {note}")
        if version is not None:
            versions[each] = version
    root = made.parent
    place = root / label
    if place.exists():
        shutil.rmtree(place)
    (made / "root").rename(place)
    (root / "bin").mkdir(exist_ok=True)
    for each, version in versions.items():
        inside = programs[each].relative_to(made / "root")
        link = root / "bin" / programs[each].name
        temporary = link.with_name(f".{link.name}.{os.getpid()}")
        temporary.unlink(missing_ok=True)
        if link.name in relocated:
            temporary.write_text(launcher(Path("..") / label, inside), encoding="utf-8")
            temporary.chmod(0o755)
        else:
            temporary.symlink_to(Path("..") / label / inside)
        temporary.replace(link)
        say(f"{each}: {version} from {label}")
