"""The target that an injector's own test brings (`fake_target`), in a process of its own, for the kill matrix.

The host is forked, opens the target in its event loop, and answers one JSON object a line on a port of the loopback
interface: whoever asks gets the doors and the arguments, and what the target's own list says, now or as soon as it
changes. It ends when it is told to, or when its case is over in any event.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import json
import os
import socket
import tempfile
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.live.matrix.cases import CASE_S

#: What a host leaves in its folder when its target stands: its port; or why it does not.
STANDS = "host.json"

#: What a real part of the platform is missing is told by this word.
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


def host(folder: Path, name: str, real: bool) -> int:
    """Open the target of an injector and answer for it until told to end; return an exit code."""
    try:
        return asyncio.run(_hosted(folder, name, real))
    except pytest.skip.Exception as error:
        return _says(folder, {MISSING: str(error)})
    except BaseException as error:  # noqa: BLE001 - also `pytest.fail`: whoever waits for the target must hear of it
        traceback.print_exc()
        return _says(folder, {"error": f"{type(error).__name__}: {error}"}, 1)


def _says(folder: Path, what: dict[str, Any], code: int = 0) -> int:
    with contextlib.suppress(FileExistsError):
        (folder / f"{STANDS}.new").write_text(json.dumps(what))
        os.link(folder / f"{STANDS}.new", folder / STANDS)  # whole, or not at all
    return code


async def _hosted(folder: Path, name: str, real: bool) -> int:
    module = brought(name)
    async with asyncio.timeout(2 * CASE_S), (module.real_target if real else module.fake_target)() as found:
        doors, given, state = found
        over = asyncio.Event()
        shown = {key: door.model_dump(mode="json", exclude_none=True) for key, door in doors.items()}
        answers = Answers({"doors": shown, "given": given, "tmp": tempfile.gettempdir()}, state, over)
        server = await asyncio.start_server(answers.serve, "127.0.0.1", 0)
        async with server:
            _says(folder, {"port": server.sockets[0].getsockname()[1]})
            await over.wait()
    return 0


class Answers:
    """Answers for one target."""

    def __init__(self, what: dict[str, Any], state: Callable[[], list[Any]], over: asyncio.Event) -> None:
        self._what, self._state, self._over = what, state, over

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one asker until it goes."""
        try:
            while line := await reader.readline():
                writer.write(json.dumps(await self._answer(json.loads(line))).encode() + b"\n")
                await writer.drain()
        except ConnectionError:
            return  # it was killed
        finally:
            writer.close()

    async def _answer(self, asked: dict[str, Any]) -> Any:
        match asked["ask"]:
            case "what":
                return self._what
            case "state":
                return self._look()
            case "changed":
                return await self._changed(asked["since"], asked["within_s"])
            case "end":
                self._over.set()
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


class Host:
    """Asks a host from an event loop."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.port = 0
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def stands(self) -> dict[str, Any]:
        """Wait until the target stands, or not; return what the host says of it."""
        while not (self._folder / STANDS).exists():
            await asyncio.sleep(0.01)
        said: dict[str, Any] = json.loads((self._folder / STANDS).read_text())
        if "port" in said:
            self.port = said["port"]
            self._streams = await asyncio.open_connection("127.0.0.1", self.port)
        return said

    async def ask(self, ask: str) -> Any:
        """Ask one thing."""
        assert self._streams is not None
        reader, writer = self._streams
        writer.write(json.dumps({"ask": ask}).encode() + b"\n")
        await writer.drain()
        async with asyncio.timeout(10):
            return json.loads(await reader.readline())

    async def end(self) -> None:
        """Tell the host to end."""
        if self._streams is not None:
            with contextlib.suppress(ConnectionError, TimeoutError, ValueError):
                await self.ask("end")
            self._streams[1].close()
            self._streams = None
