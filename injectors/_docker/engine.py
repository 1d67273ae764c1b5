"""The door `docker`: one engine, asked by docker-py in threads, each request with a time-out.

The door's address is ``unix:///path`` or ``tcp://host:port``, and may end with ``?label=KEY=VALUE`` (more with ``&``):
then no container without these labels is seen through it at all, whatever an exercise asks for.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import parse_qsl

from sim.injector import InjectionError, Site

if TYPE_CHECKING:
    from docker import APIClient

T = TypeVar("T")

DOOR = "docker"

#: How long the engine may take to answer one request, seconds; below what the kernel gives one call of an injector.
REQUEST_S = 8.0

#: Answers that may mean "it is so already": a second pause 409, a second unpause or disconnect 500, a second connect
#: 403. They say the same of other troubles, so only a look decides.
ALREADY = frozenset({304, 403, 409, 500})


class Answered(InjectionError):
    """The engine answered with an error; `status` is its HTTP status."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


@dataclass(frozen=True, slots=True)
class Container:
    """One look at a container: what ``GET /containers/{id}/json`` told; `engine` says of which engine it is."""

    raw: Mapping[str, Any]
    engine: str = ""

    @property
    def id(self) -> str:
        """The id, which no other container ever has."""
        return str(self.raw["Id"])

    @property
    def name(self) -> str:
        """The name, which another container can have later."""
        return str(self.raw["Name"]).removeprefix("/")

    @property
    def labels(self) -> Mapping[str, str]:
        """The labels."""
        return self.raw.get("Config", {}).get("Labels") or {}

    @property
    def state(self) -> Mapping[str, Any]:
        """The state, as the engine has it."""
        found: Mapping[str, Any] = self.raw.get("State") or {}
        return found

    @property
    def host(self) -> Mapping[str, Any]:
        """What the container asks of its host: limits, network mode, ports, what happens when it ends."""
        found: Mapping[str, Any] = self.raw.get("HostConfig") or {}
        return found

    @property
    def networks(self) -> Mapping[str, Mapping[str, Any]]:
        """Its place in each network that it is connected to, by the network's name."""
        return (self.raw.get("NetworkSettings") or {}).get("Networks") or {}

    @property
    def status(self) -> str:
        """The one word for the state: created, running, paused, restarting, exited, dead."""
        return str(self.state.get("Status", "unknown"))

    @property
    def running(self) -> bool:
        """Whether it runs, be it paused; one that waits for its next start does not."""
        return bool(self.state.get("Running")) and not self.state.get("Restarting")

    @property
    def paused(self) -> bool:
        """Whether it is paused."""
        return bool(self.state.get("Paused"))

    @property
    def health(self) -> str | None:
        """What its health check says; null where it has none."""
        return (self.state.get("Health") or {}).get("Status")

    @property
    def started_at(self) -> str:
        """When it was last started: another time is another life."""
        return str(self.state.get("StartedAt", ""))

    def __str__(self) -> str:
        return f"container {self.name} ({self.id[:12]})"


class Engine:
    """The engine behind the door, as an async context manager; safe to ask from several tasks at once.

    Each request is one thread's work and is sent once. A task that is cancelled sends no further one.
    """

    def __init__(self, site: Site) -> None:
        door = site.doors.get(DOOR)
        if door is None:
            raise InjectionError(f"the profile opens no door {DOOR!r}: add doors.{DOOR} with its url")
        self.url, _, query = door.url.partition("?")
        if not self.url.startswith(("unix://", "tcp://")):
            raise InjectionError(f"doors.{DOOR}: {door.url!r} is no engine: write unix:///path or tcp://host:port")
        if door.auth is not None:
            raise InjectionError(f"doors.{DOOR}: an engine is reached without auth here; forward its socket instead")
        asked = parse_qsl(query)
        if (not asked and query) or any(key != "label" or not value for key, value in asked):
            raise InjectionError(f"doors.{DOOR}: after the address only ?label=KEY=VALUE is understood, not {query!r}")
        self.scope = tuple(value for _, value in asked)
        self.api: APIClient | None = None

    @property
    def local(self) -> str | None:
        """The path of the engine's socket, where it is on this machine."""
        return self.url.removeprefix("unix://") if self.url.startswith("unix://") else None

    async def __aenter__(self) -> Engine:
        self.api = await self._asked(f"GET /version of {self.url}", self._connect)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.api is not None:
            self.api.close()

    def _connect(self) -> APIClient:
        try:
            import docker
        except ImportError as error:
            raise InjectionError("docker-py is not installed: install sim-harness[docker]") from error

        class Direct(docker.APIClient):
            """A client that no proxy of the environment comes between."""

            trust_env = property(lambda _: False, lambda _, __: None)

        if self.local is not None:
            # Tried here, because docker-py leaves a socket open that could not be connected.
            with socket.socket(socket.AF_UNIX) as probe:
                probe.settimeout(REQUEST_S)
                probe.connect(self.local)
        return Direct(base_url=self.url, version="auto", timeout=REQUEST_S)  # type: ignore[arg-type]

    async def ask(self, what: str, call: Callable[[APIClient], T]) -> T:
        """Send one request in a thread. Raises `Answered` for an error of the engine, else `InjectionError`."""
        api = self.api
        assert api is not None, "the engine is asked within its context"
        return await self._asked(what, lambda: call(api))

    async def _asked(self, what: str, call: Callable[[], T]) -> T:
        try:
            return await asyncio.to_thread(call)
        except InjectionError:
            raise
        except Exception as error:
            raise _told(what, error) from error

    async def identity(self) -> str:
        """Return the id that the engine keeps for good; empty where it tells none, or another each time."""
        try:
            first, second = [str((await self.ask("info", lambda api: api.info())).get("ID") or "") for _ in range(2)]
        except Answered:  # what stands before an engine may keep this from us
            return ""
        return first if first == second else ""

    async def inspect(self, name: str) -> Container | None:
        """Look at a container by id or name; null where there is none."""
        try:
            return Container(await self.ask(f"inspect {name[:12]}", lambda api: api.inspect_container(name)))
        except Answered as error:
            if error.status == 404:
                return None
            raise


def _told(what: str, error: Exception) -> Exception:
    """Return what an error of docker-py is for the kernel; anything that is not of the wire stays as it is."""
    from docker.errors import APIError, DockerException
    from requests import RequestException

    if isinstance(error, APIError) and error.status_code is not None:
        return Answered(error.status_code, f"{what}: {error.status_code} {error.explanation or error}"[:400])
    if isinstance(error, (DockerException, RequestException, OSError)):
        return InjectionError(f"{what}: {error}"[:400])
    return error


async def settled(
    engine: Engine, container: str, act: Callable[[], Awaitable[Any]], so: Callable[[Container], bool]
) -> None:
    """Act; an answer that may mean "it is so already" counts as done only if a look finds it `so`.

    A container that is not there any more has nothing to settle. Raises `InjectionError`.
    """
    try:
        await act()
    except Answered as error:
        if error.status not in ALREADY and error.status != 404:
            raise
        found = await engine.inspect(container)
        if found is not None and not so(found):
            raise
