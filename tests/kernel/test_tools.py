"""Tools: found only when they are what they should be, provided only when their digest is the declared one."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import tarfile
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from click.testing import CliRunner

from sim import tools
from sim.cli import cli
from sim.places import Places, places, shipped
from sim.problem import InvalidFile
from sim.tools_relocate import launcher, relocate

PROGRAM = b'#!/bin/sh\necho "gadget, version 1.2.3 (x)"\n'
OTHER = b'#!/bin/sh\necho "I am something else"\n'


def program(path: Path, text: bytes = PROGRAM) -> Path:
    """Write a program to `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text)
    path.chmod(0o755)
    return path


def gadget(**more: object) -> tools.Tools:
    """Return a tools file with one tool."""
    version = {"args": ["--version"], "pattern": r"^gadget, version (\S+)"}
    tool = {"names": ["gadget", "other-gadget"], "version": version, **more}
    return tools.Tools.model_validate({"tools": {"gadget": tool}, "hints": {"other": "brew install gadget"}})


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Places:
    """A project of its own, on a system with nothing on PATH but the shell, and of no known kind."""
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}")
    monkeypatch.setattr("sim.tools.system_names", lambda: ["other"])
    monkeypatch.setattr("sim.tools_supply.system_names", lambda: ["other"])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sim.toml").write_text("")
    return places(tmp_path)


def test_a_tool_on_path_wins_over_the_tools_folder(here: Places) -> None:
    """PATH first, then the tools folder; any of the tool's names will do."""
    inside = program(here.tools / "bin" / "gadget")
    assert tools.locate("gadget", here.tools, gadget()) == tools.Found("gadget", inside, "1.2.3", "tools folder")
    on_path = program(here.root / "bin" / "other-gadget")
    assert tools.locate("gadget", here.tools, gadget()) == tools.Found("gadget", on_path, "1.2.3", "PATH")


def test_a_python_package_may_bring_the_tool(here: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    """Last of the three, by the package's folder alone: nothing of it is imported. A package not there is no error."""
    wheel = {"wheel": {"package": "gadget_wheel", "path": "bin/gadget"}}
    assert isinstance(tools.look("gadget", gadget(**wheel).tools["gadget"], here.tools), tools.Missing)
    (here.root / "site" / "gadget_wheel").mkdir(parents=True)
    (here.root / "site" / "gadget_wheel" / "__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(here.root / "site")
    assert isinstance(tools.look("gadget", gadget(**wheel).tools["gadget"], here.tools), tools.Missing)
    inside = program(here.root / "site" / "gadget_wheel" / "bin" / "gadget")
    assert tools.locate("gadget", here.tools, gadget(**wheel)) == tools.Found(
        "gadget", inside, "1.2.3", "Python package"
    )
    first = program(here.tools / "bin" / "gadget")
    assert tools.locate("gadget", here.tools, gadget(**wheel)).path == first


def test_another_program_of_the_same_name_is_passed_over(here: Places) -> None:
    """A program that does not say the right thing is not the tool: the search goes on, and the error tells of it."""
    wrong = program(here.root / "bin" / "gadget", OTHER)
    with pytest.raises(tools.ToolsError) as caught:
        tools.locate("gadget", here.tools, gadget())
    assert str(caught.value) == (
        f"gadget is not here ({wrong} is another program (it says 'I am something else')). Run: sim setup\n"
        "  or by hand: brew install gadget"
    )
    right = program(here.root / "bin" / "other-gadget")
    assert tools.locate("gadget", here.tools, gadget()).path == right


def test_a_program_that_cannot_run_is_passed_over(here: Places) -> None:
    """A broken program is a note, not a crash."""
    broken = program(here.root / "bin" / "gadget", b"\x7fELF nonsense")
    found = tools.look("gadget", gadget().tools["gadget"], here.tools)
    assert isinstance(found, tools.Missing)
    assert found.notes[0].startswith(f"{broken} cannot be run: ")


class Release(BaseHTTPRequestHandler):
    """Serves one archive."""

    body = b""

    def do_GET(self) -> None:
        """Answer the archive."""
        self.send_response(200 if self.path == "/a.tar.gz" else 404)
        self.send_header("Content-Length", str(len(self.body)))
        self.end_headers()
        self.wfile.write(self.body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def release(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., dict[str, str]]]:
    """Serve an archive with the given members on loopback; return its entry for a tools file."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with ThreadingHTTPServer(("127.0.0.1", 0), Release) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()

        def serve(members: dict[str, bytes], member: str = "g/gadget", **more: str) -> dict[str, str]:
            raw = io.BytesIO()
            with tarfile.open(fileobj=raw, mode="w:gz") as archive:
                for name, text in members.items():
                    info = tarfile.TarInfo(name)
                    info.size = len(text)
                    archive.addfile(info, io.BytesIO(text))
            monkeypatch.setattr(Release, "body", raw.getvalue())
            system, machine = tools.machine()
            return {
                "system": system,
                "machine": machine,
                "url": f"http://127.0.0.1:{server.server_address[1]}/a.tar.gz",
                "sha256": hashlib.sha256(raw.getvalue()).hexdigest(),
                "member": member,
                **more,
            }

        yield serve
        server.shutdown()
        thread.join()


def left(folder: Path) -> list[str]:
    """Return what lies in the tools folder."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.name != ".lock")


def test_an_archive_of_the_declared_digest_is_unpacked_and_linked(here: Places, release) -> None:  # type: ignore[no-untyped-def]
    """The one member is taken out, made executable and linked, and nothing else of the archive; twice is as once."""
    entry = release({"g/gadget": PROGRAM, "../../evil": b"evil", "g/README": b"r"})
    known, said = gadget(archives=[entry]), []  # type: ignore[var-annotated]
    folder = f"gadget-{entry['sha256'][:12]}"
    expected = [tools.Found("gadget", here.tools / "bin" / "gadget", "1.2.3", "tools folder")]
    assert tools.setup(known, here, said.append) == expected
    assert left(here.tools) == ["bin", "bin/gadget", folder, f"{folder}/bin", f"{folder}/bin/gadget"]
    assert said == [f"gadget: downloading {entry['url']}", f"gadget: 1.2.3 from {folder}"]
    assert tools.setup(known, here, said.append) == expected
    assert len(said) == 2
    assert not list(here.root.rglob("evil"))


@pytest.mark.parametrize(
    ("members", "more", "reason"),
    [
        ({"g/gadget": PROGRAM}, {"sha256": "0" * 64}, "has the wrong digest: declared 0000"),
        ({"g/other": PROGRAM}, {}, "no g/gadget in the archive"),
        ({"g/gadget": OTHER}, {}, "is another program (it says 'I am something else')"),
        ({"g/gadget": PROGRAM}, {"url": "http://127.0.0.1:9/none"}, "http://127.0.0.1:9/none: "),
        ({"g/gadget": PROGRAM}, {"machine": "pdp11"}, "no release archive named for "),
    ],
)
def test_what_is_not_right_is_refused_and_leaves_nothing(here: Places, release, members, more, reason) -> None:  # type: ignore[no-untyped-def]
    """A wrong digest, member, program, address or machine: an error with reason and cure, and an empty folder."""
    with pytest.raises(tools.ToolsError) as caught:
        tools.setup(gadget(archives=[release(members, **more)]), here, lambda _: None)
    assert reason in str(caught.value)
    assert str(caught.value).endswith("by hand: brew install gadget")
    assert left(here.tools) == []


def test_what_a_killed_setup_left_is_cleared_away(here: Places, release) -> None:  # type: ignore[no-untyped-def]
    """Half-made folders of a setup that was killed are gone after the next one."""
    (here.tools / ".new-1" / "root").mkdir(parents=True)
    tools.setup(gadget(archives=[release({"g/gadget": PROGRAM})]), here, lambda _: None)
    assert not [name for name in left(here.tools) if name.startswith(".new-")]


@pytest.mark.parametrize(
    ("change", "finding"),
    [
        ({"archives": [{"system": "s", "machine": "m", "url": "http://h/a", "member": "g"}]}, "sha256"),
        ({"archives": [{"system": "s", "machine": "m", "url": "file:///a", "sha256": "0" * 64, "member": "g"}]}, "url"),
        ({"names": ["../gadget"]}, "names"),
        ({"debian": {"package": "g", "relocate": ["/usr"]}}, "relocate"),
        ({"debian": {"package": "g;rm"}}, "package"),
        ({"version": {"args": [], "pattern": "("}}, "not a regular expression"),
        ({"version": {"args": [], "pattern": "x"}}, "the pattern must have one group"),
    ],
)
def test_a_wrong_tools_file_is_refused(tmp_path: Path, change: dict[str, object], finding: str) -> None:
    """An archive without digest, a foreign address scheme, a name that is a path, a bad pattern: all `InvalidFile`."""
    tool = {"names": ["g"], "version": {"args": [], "pattern": "(x)"}, **change}
    file = tmp_path / "tools.yaml"
    file.write_text(json.dumps({"tools": {"g": tool}}))
    with pytest.raises(InvalidFile) as caught:
        tools.load(file)
    assert finding in str(caught.value)


def test_the_shipped_tools_file_is_valid_and_ships_no_unverified_archive() -> None:
    """The shipped file loads; each archive in it, should one come, has a digest; the hint names both tools."""
    folder = shipped("compose")
    assert folder is not None
    known = tools.load(folder / "tools.yaml")
    assert {name for name, tool in known.tools.items() if not tool.optional} == {"prometheus", "alertmanager", "node"}
    assert known.hints["darwin"] == "brew install prometheus alertmanager; brew install --cask chromium"


@pytest.mark.parametrize(
    ("release", "names"),
    [
        ('ID=ubuntu\nID_LIKE="debian"\n', ["ubuntu", "debian", "linux", "other"]),
        ("NAME=x\nID=debian\n", ["debian", "linux", "other"]),
        ("", ["linux", "other"]),
    ],
)
def test_a_system_has_its_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, release: str, names: list[str]
) -> None:
    """The exact name comes first, then what it is like, then its kind."""
    monkeypatch.setattr("sys.platform", "linux")
    (tmp_path / "os-release").write_text(release)
    assert tools.system_names(tmp_path / "os-release") == names


def test_a_program_is_pointed_at_what_it_was_unpacked_with(tmp_path: Path) -> None:
    """A compiled-in folder that came along is replaced at its length and found from the root; others stay."""
    data = tmp_path / "root" / "usr" / "share" / "gadget"
    data.mkdir(parents=True)
    (data / "words").write_text("hello\n")
    made = program(
        tmp_path / "root" / "usr" / "bin" / "gadget",
        b"#!/bin/sh\ncat /usr/share/gadget/words; echo /usr/share/other $1\n",
    )
    size = made.stat().st_size
    assert not relocate(made, tmp_path / "root", [])
    assert not relocate(made, tmp_path / "root", ["/usr/share/other"])
    assert relocate(made, tmp_path / "root", ["/usr/share/gadget", "/usr/share/other"])
    assert not relocate(made, tmp_path / "root", ["/usr/share/gadget"])
    assert (made.stat().st_size, made.stat().st_mode & 0o777) == (size, 0o755)
    script = launcher(Path("..") / "root", Path("usr/bin/gadget"))
    started = program(tmp_path / "a b" / "gadget", script.encode())
    done = subprocess.run([str(started), "x y"], cwd="/", capture_output=True, text=True, check=True)
    assert done.stdout == "hello\n/usr/share/other x y\n"


def tools_file(here: Places, entry: dict[str, str] | None = None) -> None:
    """Write the project's tools file."""
    (here.root / "compose").mkdir()
    known = gadget(archives=[] if entry is None else [entry]).model_dump()
    (here.root / "compose" / "tools.yaml").write_text(json.dumps(known))


def test_setup_and_doctor_speak_and_exit(here: Places, release) -> None:  # type: ignore[no-untyped-def]
    """Doctor exits 4 with the cure before setup and 0 after it; setup exits 0."""
    tools_file(here, release({"g/gadget": PROGRAM}))
    before = CliRunner().invoke(cli, ["doctor"])
    assert (before.exit_code, before.stderr) == (
        4,
        "gadget: not here; run: sim setup\nor by hand: brew install gadget\n",
    )
    made = CliRunner().invoke(cli, ["setup"])
    assert (made.exit_code, made.stdout.splitlines()[-1].split()) == (
        0,
        ["gadget", "1.2.3", "tools", "folder", str(here.tools / "bin" / "gadget")],
    )
    after = CliRunner().invoke(cli, ["doctor", "--format", "json"])
    assert after.exit_code == 0
    assert json.loads(after.stdout)["tools"] == [
        {
            "tool": "gadget",
            "optional": False,
            "version": "1.2.3",
            "source": "tools folder",
            "path": str(here.tools / "bin" / "gadget"),
            "notes": [],
        }
    ]


def test_setup_that_cannot_exits_with_4_and_a_wrong_file_with_3(here: Places) -> None:
    """No route: 4 and the one line. A broken tools file: 3. A named file that is not there: 2."""
    tools_file(here)
    failed = CliRunner().invoke(cli, ["setup"])
    assert (failed.exit_code, failed.stderr.splitlines()[-1]) == (4, "by hand: brew install gadget")
    (here.root / "compose" / "tools.yaml").write_text("tools: 3\n")
    assert CliRunner().invoke(cli, ["setup"]).exit_code == 3
    assert CliRunner().invoke(cli, ["doctor", "--tools", "gone.yaml"]).exit_code == 2
