"""A container engine in memory, behind a real socket of this machine: as much of its HTTP API as the faults use.

Its answers, and the statuses of those that say "it is so already", are those of an engine 20.10 (API 1.41). What a test
changes in a `Box` is what the engine then tells.
"""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import tempfile
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from injectors._docker import life, looks
from sim.injector import InjectionError, Site
from sim.secret import Secrets
from sim.target import Door

NETWORK, BACK = "e" * 63 + "1", "f" * 63 + "2"


@dataclass
class Box:
    """One container. `states` are its processes' letters, the first one its main process."""

    name: str
    id: str = ""
    labels: dict[str, str] = field(default_factory=lambda: {"sim.environment": "sim-test"})
    status: str = "running"
    life: int = 1
    health: str | None = None
    healthy_after: int = 0
    states: list[str] = field(default_factory=lambda: ["S", "S"])
    policy: bool = False
    auto_remove: bool = False
    mode: str = "front"
    limit: dict[str, int] = field(default_factory=lambda: {"NanoCpus": 0, "CpuQuota": 0, "CpuPeriod": 0})
    busy: bool = True
    unbooked: bool = False
    periods: int = 0
    networks: dict[str, dict[str, Any]] = field(default_factory=dict)
    ports: dict[str, list[dict[str, str]]] = field(default_factory=dict)
    obeys: bool = True
    seconds: int = 0

    def __post_init__(self) -> None:
        self.id = self.id or (self.name.encode().hex() * 64)[:64]

    @property
    def running(self) -> bool:
        """Whether the engine would say that it runs."""
        return self.status in ("running", "paused", "restarting")

    def started(self) -> None:
        """Begin another life."""
        self.life, self.status, self.states, self.periods = self.life + 1, "running", ["S"] * len(self.states), 0
        if self.health is not None:
            self.health = "starting"

    def looked_at(self) -> None:
        """Let a health check that was `starting` pass after so many looks."""
        if self.health == "starting":
            self.healthy_after -= 1
            if self.healthy_after <= 0:
                self.health = "healthy"

    def shown(self) -> dict[str, Any]:
        """Return what ``inspect`` tells."""
        state: dict[str, Any] = {
            "Status": self.status,
            "Running": self.running,
            "Paused": self.status == "paused",
            "Restarting": self.status == "restarting",
            "Pid": 99_999_999 if self.running else 0,
            "ExitCode": 0 if self.running else 137,
            "StartedAt": f"life {self.life}",
        }
        if self.health is not None:
            state["Health"] = {"Status": self.health}
        bindings = {port: [{"HostPort": ""}] for port in self.ports}
        return {
            "Id": self.id,
            "Name": f"/{self.name}",
            "RestartCount": 0,
            "Config": {"Labels": self.labels},
            "State": state,
            "HostConfig": {
                "NetworkMode": self.mode,
                "AutoRemove": self.auto_remove,
                "PortBindings": bindings,
                **self.limit,
            },
            "NetworkSettings": {"Networks": self.networks, "Ports": self.ports},
        }


def place(*aliases: str, ipv4: str | None = None, **more: Any) -> dict[str, Any]:
    """Return a container's place in a network, as ``inspect`` tells it."""
    fixed = {"IPv4Address": ipv4} if ipv4 else None
    return {
        "NetworkID": NETWORK,
        "Aliases": list(aliases) or None,
        "IPAMConfig": fixed,
        "Links": None,
        "DriverOpts": None,
        "IPAddress": ipv4 or "172.30.0.9",
        **more,
    }


class Engine:
    """The engine: `boxes` by id; `asked` is every request that changes something, `fails` what to answer instead."""

    def __init__(self, *boxes: Box) -> None:
        self.boxes = {box.id: box for box in boxes}
        self.asked: list[str] = []
        self.fails: dict[str, tuple[int, str]] = {}
        self.deaf: set[str] = set()
        self.networks = {NETWORK: "front", BACK: "back"}
        self.ids = ["ENGINE:ONE"]

    def state(self) -> list[Any]:
        """Return how every container stands, as plain data."""
        return [
            {
                "name": box.name,
                "status": box.status,
                "health": box.health,
                "states": list(box.states),
                "limit": box.limit | {"CpuQuota": max(0, box.limit["CpuQuota"])},  # -1 is none, as 0 is
                "networks": {
                    name: [told["Aliases"] or [], told["IPAMConfig"] or {}] for name, told in box.networks.items()
                },
            }
            for box in self.boxes.values()
        ]

    # -- the API -----------------------------------------------------------------------------------------------

    @web.middleware
    async def guard(self, request: web.Request, handler: Any) -> web.StreamResponse:
        """Note what changes something; answer as told to where a test wants a failure."""
        path = re.sub(r"^/v[0-9.]+", "", request.path)
        word = path.rsplit("/", 1)[-1]
        if request.method == "POST":
            self.asked.append(f"{word} {path.split('/')[2][:4]}")
        if word in self.deaf:
            await asyncio.Event().wait()
        if word in self.fails:
            status, message = self.fails[word]
            return web.json_response({"message": message}, status=status)
        answer: web.StreamResponse = await handler(request)
        return answer

    def box(self, request: web.Request) -> Box:
        """Return the container that is asked for, by id or name."""
        key = request.match_info["id"]
        for box in self.boxes.values():
            if key in (box.id, box.name):
                return box
        raise web.HTTPNotFound(
            text=json.dumps({"message": f"No such container: {key}"}), content_type="application/json"
        )

    async def version(self, _: web.Request) -> web.Response:
        """Say who this is."""
        return web.json_response({"ApiVersion": "1.41", "Version": "20.10.24"})

    async def info(self, _: web.Request) -> web.Response:
        """Say which engine this is: the first of `ids`, which then goes to the end of them."""
        self.ids = [*self.ids[1:], self.ids[0]]
        return web.json_response({"ID": self.ids[-1]})

    async def listed(self, request: web.Request) -> web.Response:
        """List containers: those that run, or all; with all the labels asked for."""
        wanted = [each.partition("=") for each in json.loads(request.query.get("filters", "{}")).get("label", [])]
        rows = [
            {"Id": box.id, "Names": [f"/{box.name}"], "Labels": box.labels}
            for box in self.boxes.values()
            if (request.query.get("all") == "1" or box.running)
            and all(name in box.labels and (not mark or box.labels[name] == value) for name, mark, value in wanted)
        ]
        return web.json_response(rows)

    async def inspect(self, request: web.Request) -> web.Response:
        """Tell one container."""
        box = self.box(request)
        box.looked_at()
        return web.json_response(box.shown())

    async def act(self, request: web.Request) -> web.Response:
        """Do one of the short things, with the answers of a real engine where it is so already."""
        box, word = self.box(request), request.match_info["act"]
        name = f"Container {box.id}"
        refusal: dict[str, tuple[bool, int, str]] = {
            "pause": (box.status == "paused", 409, f"{name} is already paused"),
            "unpause": (box.status != "paused", 500, f"{name} is not paused"),
            "kill": (not box.running, 409, f"Cannot kill container: {box.name}: {name} is not running"),
            "start": (box.running, 304, ""),
        }
        refused, status, message = refusal.get(word, (False, 0, ""))
        if refused:
            return web.json_response({"message": message}, status=status) if message else web.Response(status=status)
        getattr(self, f"do_{word}")(box, request)
        return web.Response(status=204)

    def do_pause(self, box: Box, _: web.Request) -> None:
        """Freeze every process."""
        box.status, box.states = "paused", ["D"] * len(box.states)

    def do_unpause(self, box: Box, _: web.Request) -> None:
        """Thaw every process."""
        box.status, box.states = "running", ["S"] * len(box.states)

    def do_start(self, box: Box, _: web.Request) -> None:
        """Begin another life."""
        box.started()

    def do_restart(self, box: Box, _: web.Request) -> None:
        """End one life and begin another."""
        box.started()

    def do_kill(self, box: Box, request: web.Request) -> None:
        """Send a signal to the main process, and to it alone."""
        signal = request.query.get("signal", "SIGKILL")
        if signal in ("SIGSTOP", "SIGCONT"):
            box.states[0] = "T" if signal == "SIGSTOP" else "S"
        elif box.obeys or signal == "SIGKILL":
            box.status = "exited"
            if box.policy:
                box.started()

    async def top(self, request: web.Request) -> web.Response:
        """List the processes as ps has them."""
        box = self.box(request)
        if not box.running:
            return web.json_response({"message": f"Container {box.id} is not running"}, status=409)
        assert request.query["ps_args"] == "-eo pid,stat,time,comm"
        box.seconds += "R" in box.states
        time = f"00:00:{box.seconds:02d}"
        rows = [[str(10 + at), f"{state}s", time, "app" if at else "init"] for at, state in enumerate(box.states)]
        return web.json_response({"Titles": ["PID", "STAT", "TIME", "COMMAND"], "Processes": rows})

    async def update(self, request: web.Request) -> web.Response:
        """Change the limit; a quota is refused where there are NanoCpus, as a real engine does."""
        box, body = self.box(request), await request.json()
        if "CpuQuota" in body and box.limit["NanoCpus"]:
            message = "Conflicting options: CPU Quota cannot be updated as NanoCPUs has already been set"
            return web.json_response({"message": message}, status=409)
        box.limit |= body
        return web.json_response({"Warnings": None})

    async def stats(self, request: web.Request) -> web.Response:
        """Tell the kernel's counters: a busy container under a limit is held back at every look."""
        box = self.box(request)
        limited = box.limit["CpuQuota"] > 0 or box.limit["NanoCpus"] > 0 or box.unbooked
        box.periods += box.busy and limited
        counted = {"periods": box.periods, "throttled_periods": box.periods, "throttled_time": 0}
        return web.json_response({"cpu_stats": {"throttling_data": counted}})

    async def join(self, request: web.Request) -> web.Response:
        """Connect or disconnect; twice is refused with the statuses of a real engine."""
        body = await request.json()
        box, word, network = self.boxes[body["Container"]], request.match_info["act"], request.match_info["id"]
        if network not in self.networks:
            return web.json_response({"message": f"network {network} not found"}, status=404)
        name = self.networks[network]
        there = name in box.networks
        if word == "disconnect" and not there:
            message = f"container {box.id} is not connected to network {name}"
            return web.json_response({"message": message}, status=500)
        if word == "connect" and there:
            message = f"endpoint with name {box.name} already exists in network {name}"
            return web.json_response({"message": message}, status=403)
        if word == "disconnect":
            del box.networks[name]
        else:
            told = body.get("EndpointConfig") or {}
            fixed = told.get("IPAMConfig") or {}
            box.networks[name] = place(
                *(told.get("Aliases") or ()), box.id[:12], ipv4=fixed.get("IPv4Address"),
                NetworkID=network, Links=told.get("Links"), DriverOpts=told.get("DriverOpts") or {},
            )  # fmt: skip
        return web.Response(status=200)

    async def net(self, request: web.Request) -> web.Response:
        """Tell a network and who is in it."""
        network = request.match_info["id"]
        if network not in self.networks:
            return web.json_response({"message": f"network {network} not found"}, status=404)
        name = self.networks[network]
        inside = {box.id: {} for box in self.boxes.values() if name in box.networks}
        return web.json_response({"Id": network, "Name": name, "Containers": inside})

    def routes(self) -> list[web.RouteDef]:
        """Return everything that is served."""
        at = "/v1.41/containers/{id}"
        return [
            web.get("/version", self.version),
            web.get("/v1.41/info", self.info),
            web.get("/v1.41/containers/json", self.listed),
            web.get(f"{at}/json", self.inspect),
            web.get(f"{at}/top", self.top),
            web.get(f"{at}/stats", self.stats),
            web.post(f"{at}/update", self.update),
            web.post("/v1.41/networks/{id}/{act:connect|disconnect}", self.join),
            web.get("/v1.41/networks/{id}", self.net),
            web.post(f"{at}/{{act}}", self.act),
        ]


@asynccontextmanager
async def serving(engine: Engine) -> Any:
    """Serve an engine at a socket of its own, without the waits of real ones; give the door's address."""
    folder = tempfile.mkdtemp(prefix="sim-dk-")
    app = web.Application(middlewares=[engine.guard])
    app.router.add_routes(engine.routes())
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    waits = (life.LOOK_S, looks.AGAIN_S)
    life.LOOK_S, looks.AGAIN_S = 0.001, 0.0
    try:
        await runner.setup()
        path = Path(folder) / "engine.sock"
        await web.UnixSite(runner, str(path)).start()
        yield f"unix://{path}"
    finally:
        await runner.cleanup()
        life.LOOK_S, looks.AGAIN_S = waits
        shutil.rmtree(folder)


@asynccontextmanager
async def fake(engine: Engine, given: dict[str, Any]) -> Any:
    """Yield what the contract test uses: the door, the arguments, and how the containers stand."""
    async with serving(engine) as url:
        yield {"docker": Door(url=url)}, given, engine.state


def site(url: str) -> Site:
    """Return the place of one injection."""
    return Site("r1-1", "r1", {"docker": Door(url=url)}, Secrets({}))


def against(engine: Engine, work: Any) -> Any:
    """Run `work(site)` against the engine; its door's address reads URL in the errors that come out of it."""

    async def run() -> Any:
        async with serving(engine) as url:
            return await work(site(url))

    return asyncio.run(run())


async def refused(injector: Any, where: Site, /, **given: Any) -> str:
    """Return why `prepare` refuses, the door's address left out."""
    with pytest.raises(InjectionError) as error:
        await injector.prepare(where, injector.params.model_validate(given))
    return str(error.value).replace(where.doors["docker"].url.partition("?")[0], "URL")


async def story(injector: Any, where: Site, /, **given: Any) -> list[tuple[bool, Any]]:
    """Prepare, apply, withdraw twice; return the probes: effective, gone before, gone after."""
    prepared = await injector.prepare(where, injector.params.model_validate(given))
    receipt = json.loads(json.dumps(prepared.receipt))
    await injector.apply(where, receipt)
    found = [await injector.effective(where, receipt), await injector.gone(where, receipt)]
    for _ in range(2):
        await injector.withdraw(where, receipt)
    found.append(await injector.gone(where, receipt))
    return [(probe.holds, dict(probe.evidence)) for probe in found]


@asynccontextmanager
async def real(given):
    """Yield doors, arguments and state of a container of our own at a real engine."""
    from tests.live import containers

    with containers.room() as room:
        box = await asyncio.to_thread(room.start, "web", last=10, alias="web")
        yield {"docker": Door(url=room.door)}, {**given, "container": box}, lambda: [room.tell(box)]
