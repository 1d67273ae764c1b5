"""Processes to hit, for the tests of process faults: a parent with two children, and one who restarts it."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from contextlib import asynccontextmanager, contextmanager

from injectors import _processes
from sim.injector import Site
from sim.secret import Secrets
from sim.stack.procs import Proc, kill_all
from sim.target import Door

#: A parent and two children that wait for the end of one pipe, ours; it says their pids when they are there.
PARENT = """
import subprocess, sys
wait = [sys.executable, "-I", "-S", "-c", "import sys; print(flush=True); sys.stdin.read()"]
own = [subprocess.Popen(wait, stdout=subprocess.PIPE, start_new_session=bool(n)) for n in (0, 1)]
for each in own:
    each.stdout.readline()
print(*(each.pid for each in own), flush=True)
sys.stdin.read()
"""


class Tree:
    """One such process with its children; the second child has a session of its own."""

    def __init__(self):
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", PARENT],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        children = [int(word) for word in self.process.stdout.readline().split()]
        self.main, *self.children = [Proc.of(pid) for pid in (self.process.pid, *children)]

    @property
    def all(self):
        """Return the process and its children."""
        return [self.main, *self.children]

    def states(self):
        """Return the state of each."""
        return [_processes.status(each) for each in self.all]

    def end(self):
        """End all of it."""
        assert kill_all(self.all) == []
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()


@contextmanager
def tree():
    """Have one tree."""
    made = Tree()
    try:
        yield made
    finally:
        made.end()


def state_file(path, **processes):
    """Write the state file of a stack that has these processes: name=(state, proc)."""
    path.write_text(
        json.dumps(
            {
                "name": "default", "spec": "s", "spec_digest": "d", "instance": "i", "phase": "ready", "owned": False,
                "pid": 1, "started": 1.0, "since": 1.0,
                "processes": {
                    name: {"state": state, "pid": proc and proc.pid, "started": proc and proc.started}
                    for name, (state, proc) in processes.items()
                },
            }
        )
    )  # fmt: skip


def site(path, fault="r1-0"):
    """Return a site whose door is at `path`."""
    return Site(fault, "r1", {"processes": Door(url=f"file://{path}")}, Secrets({}))


@asynccontextmanager
async def fake(folder, monkeypatch, given):
    """Yield doors, arguments and state of a process `worker` that is restarted by the second who looks for it."""
    path = folder / "worker.pid"
    running = [Tree()]
    path.write_text(str(running[-1].main.pid))
    looks, look = [], _processes.named

    def looked(where, name):
        if not running[-1].main.alive():
            looks.append(name)
            if len(looks) == 2:
                looks.clear()
                running[-1].end()
                running.append(Tree())
                path.write_text(str(running[-1].main.pid))
        return look(where, name)

    monkeypatch.setattr(_processes, "named", looked)
    try:
        yield (
            {"processes": Door(url=f"file://{folder}")},
            given,
            lambda: [state != "ended" for state in running[-1].states()],
        )
        await asyncio.sleep(0)
    finally:
        running[-1].end()


@asynccontextmanager
async def supervised(folder, given):
    """Yield the same for an injector in another process: the worker is restarted a moment after it has died."""
    path, new = folder / "worker.pid", folder / "worker.new"
    running = [Tree()]

    def begun():
        new.write_text(str(running[-1].main.pid))
        new.rename(path)

    async def supervise():
        while True:
            await asyncio.sleep(0.3)
            if not running[-1].main.alive():
                running[-1].end()
                running[-1] = Tree()
                begun()

    begun()
    supervisor = asyncio.create_task(supervise())
    try:
        doors = {"processes": Door(url=f"file://{folder}")}
        yield doors, given, lambda: [state != "ended" for state in running[-1].states()]
    finally:
        supervisor.cancel()
        await asyncio.gather(supervisor, return_exceptions=True)
        running[-1].end()
