"""The target that an injector's own test brings (`fake_target`), in a process of its own, for the kill matrix.

A host is forked, opens targets in its event loop, and answers one JSON object a line on ports of the loopback
interface: a port for the host itself, and one for each target, where whoever asks gets the doors and the arguments, and
what the target's own list says, now or as soon as it changes. Each run has a host of its own; where a test module has a
`HOST`, all that name the same one share it, one after the other: what stands behind it is too dear to start each time.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import importlib
import json
import re
import socket
import tempfile
import traceback
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.live.matrix.cases import ROOT

#: What a host leaves in its folder when it is there: its port.
STANDS = "host.port"

#: By this word it is told which real part of the platform is not there.
MISSING = "missing"

#: How often the list is looked at while somebody waits for it to change, seconds.
LOOK_S = 0.003


def brought(name: str) -> Any:
    """Return the test module of the injector `name`. Raises `LookupError`: which file or function is missing."""
    path = f"tests.injectors.test_{name.replace('.', '_')}"
    try:
        module = importlib.import_module(path)
    except ModuleNotFoundError as error:
        if error.name != path:
            raise
        raise LookupError(f"{name} has no test of its own: write {path.replace('.', '/')}.py") from error
    if not hasattr(module, "fake_target"):
        raise LookupError(f"{path.replace('.', '/')}.py has no fake_target()")
    return module


@contextlib.contextmanager
def small(name: str) -> Iterator[None]:
    """Stand in for what the injector itself would start on this machine, where its test module has a `stand_in`."""
    stand_in = getattr(brought(name), "stand_in", None)
    with stand_in() if stand_in is not None else contextlib.nullcontext():
        yield


def _source(name: str) -> str:
    """Return the text of an injector's test module; none where it is missing: its host tells."""
    path = ROOT / "tests" / "injectors" / f"test_{name.replace('.', '_')}.py"
    return path.read_text(encoding="utf-8") if path.exists() else ""


def shared(name: str) -> str:
    """Return the name of the host that the targets of an injector share with others; empty: each has its own."""
    found = re.search(r'^HOST = "([a-z]+)"$', _source(name), re.MULTILINE)
    return found[1] if found else ""


def real(name: str) -> bool:
    """Whether the test of an injector brings a real part as well."""
    return "def real_target(" in _source(name)


def real_lease(name: str) -> str:
    """Return what the real part does about leases, where the kind of fault leaves that to its target."""
    found = re.search(r'^REAL_LEASE = "(target|none)"$', _source(name), re.MULTILINE)
    return found[1] if found else ""


def host(folder: Path, most_s: float) -> int:
    """Open targets and answer for them, until told to end; return an exit code."""
    atexit._clear()  # what the zygote has to do at its end is not ours
    try:
        return asyncio.run(_hosted(folder, most_s))
    finally:
        atexit._run_exitfuncs()  # a forked process ends without: what a test has started must end all the same


async def _hosted(folder: Path, most_s: float) -> int:
    targets = Targets()
    server = await asyncio.start_server(serving(targets.answer), "127.0.0.1", 0)
    async with server, asyncio.timeout(most_s):
        (folder / f"{STANDS}.new").write_text(str(server.sockets[0].getsockname()[1]))
        (folder / f"{STANDS}.new").rename(folder / STANDS)
        await targets.over.wait()
    return 0


def serving(answer: Callable[[dict[str, Any]], Awaitable[Any]]) -> Callable[..., Awaitable[None]]:
    """Return what serves one connection, line by line."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                writer.write(json.dumps(await answer(json.loads(line))).encode() + b"\n")
                await writer.drain()
        except (ConnectionError, asyncio.CancelledError):
            return  # it was killed, or we end
        finally:
            writer.close()

    return serve


class Targets:
    """The targets of one host."""

    def __init__(self) -> None:
        self.over = asyncio.Event()
        self._open: dict[int, tuple[asyncio.Event, asyncio.Task[str]]] = {}

    async def answer(self, asked: dict[str, Any]) -> Any:
        """Open a target, close it, or end."""
        match asked["ask"]:
            case "open":
                stands: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
                over = asyncio.Event()
                task = asyncio.create_task(_target(asked["injector"], asked["real"], stands, over))
                await asyncio.wait({task, stands}, return_when=asyncio.FIRST_COMPLETED)
                if not stands.done():
                    return {"error": task.result()}
                said = stands.result()
                if "port" in said:
                    self._open[said["port"]] = over, task
                return said
            case "close":
                over, task = self._open.pop(asked["port"])
                over.set()
                return await task
            case "end":
                self.over.set()
        return None


async def _target(name: str, real: bool, stands: asyncio.Future[dict[str, Any]], over: asyncio.Event) -> str:
    """Open a target until it is over; return what went wrong with that."""
    try:
        module = brought(name)
        opened = module.real_target if real else getattr(module, "apart_target", module.fake_target)
        async with opened() as (doors, given, state):
            shown = {key: door.model_dump(mode="json", exclude_none=True) for key, door in doors.items()}
            answers = Answers({"doors": shown, "given": given, "tmp": tempfile.gettempdir()}, state)
            async with await asyncio.start_server(serving(answers.answer), "127.0.0.1", 0) as server:
                stands.set_result({"port": server.sockets[0].getsockname()[1]})
                await over.wait()
    except pytest.skip.Exception as error:
        stands.set_result({MISSING: str(error)})
    except BaseException as error:  # noqa: BLE001 - also `pytest.fail`: whoever waits for the target must hear of it
        traceback.print_exc()
        return f"{type(error).__name__}: {error}"
    return ""


class Answers:
    """Answers for one target."""

    def __init__(self, what: dict[str, Any], state: Callable[[], list[Any]]) -> None:
        self._what, self._state = what, state

    async def answer(self, asked: dict[str, Any]) -> Any:
        """Say what it is, what its list says, or whether that changes."""
        match asked["ask"]:
            case "what":
                return self._what
            case "state":
                return self._look()
            case "changed":
                return await self._changed(asked["since"], asked["within_s"])
        return None

    def _look(self) -> Any:
        return json.loads(json.dumps(self._state(), default=repr))

    async def _changed(self, since: Any, within_s: float) -> bool:
        loop = asyncio.get_running_loop()
        until = loop.time() + within_s
        while self._look() == since:
            if loop.time() > until:
                return False
            await asyncio.sleep(LOOK_S)
        return True


class Line:
    """Asks a host, and waits: for the process that injects."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=10)
        self._file = self._socket.makefile("rwb")

    def ask(self, ask: str, **more: Any) -> Any:
        """Ask one thing."""
        self._file.write(json.dumps({"ask": ask, **more}).encode() + b"\n")
        self._file.flush()
        return json.loads(self._file.readline())


class Port:
    """Asks a host, or one of its targets, from an event loop."""

    def __init__(self, port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.port, self._reader, self._writer = port, reader, writer

    @classmethod
    async def of(cls, port: int) -> Port:
        """Connect."""
        return cls(port, *await asyncio.open_connection("127.0.0.1", port))

    async def ask(self, ask: str, **more: Any) -> Any:
        """Ask one thing."""
        self._writer.write(json.dumps({"ask": ask, **more}).encode() + b"\n")
        await self._writer.drain()
        return json.loads(await self._reader.readline())

    def close(self) -> None:
        """Hang up."""
        self._writer.close()


async def stands(folder: Path) -> Port:
    """Wait until the host of a folder is there."""
    while not (folder / STANDS).exists():
        await asyncio.sleep(0.01)
    return await Port.of(int((folder / STANDS).read_text()))
