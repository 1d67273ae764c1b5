"""Taking a fault of a link away, from a server that may not want to let go of it.

The real Toxiproxy can wait for a connection while it holds the lock that everything else needs: one client that stopped
reading, and the removal of a toxic hangs, then lists and even creations of proxies do. So the way out is a ladder, each
rung with a time-out, and after each rung the state is read back; nothing is believed but what was read:

1. remove the toxic;
2. disable the link, which closes its connections (and enable it once the toxic is seen to be gone);
3. delete the link, and create it again as it was before the fault;
4. kill the server if it is a process of our own stack, whose supervisor starts it again; create what it forgot (at once
   where it answers nothing at all).

Beyond that only a human helps, and is told so. Each call starts at the first rung that the state calls for, for it may
be the first of another process. What had to be done is kept for the evidence of `gone` (in this process only).
"""

from __future__ import annotations

import asyncio
import ipaddress
import signal
from collections.abc import Iterable
from typing import Any
from urllib.parse import urlsplit

from injectors import _toxiproxy_server as server
from injectors._toxiproxy_server import Link, ask, path_of
from sim.event import JSON
from sim.injector import InjectionError, Receipt, Site
from sim.whereabouts import loopback
from sim.wire import Failure

#: Time-outs in seconds: of a read, of a change, of the whole, and what a restart needs at least of it. The kernel
#: gives one withdrawal ten.
READ_S, CHANGE_S, ALL_S, RESTART_S = 1.0, 1.5, 9.0, 2.5
_PAUSE_S = 0.1
#: How often a change is asked for in all where the server refuses it: the port of a link that was away for a moment
#: may be somebody's.
_TRIES = 3
_KEPT = 64

_did: dict[str, list[JSON]] = {}
#: How each fault stood when this process began to withdraw it, before it had changed anything.
_found: dict[str, dict[str, JSON]] = {}


def did(site: Site) -> list[JSON]:
    """Return what this process had to do to take the fault away, in order."""
    return list(_did.get(site.id, ()))


def forget(site: Site) -> None:
    """Begin anew: this fault has not been withdrawn yet."""
    _did.pop(site.id, None)
    _found.pop(site.id, None)


def found(site: Site) -> dict[str, JSON] | None:
    """Return how the fault stood when this process began to withdraw it; null where nobody could be asked."""
    return _found.get(site.id)


async def withdraw(site: Site, receipt: Receipt) -> None:
    """Take the fault away, by as few rungs as it needs. Raises `InjectionError` when the last one did not do it."""
    await _Ladder(site, receipt).climb()


class _Ladder:
    def __init__(self, site: Site, receipt: Receipt) -> None:
        self._site, self._receipt = site, receipt
        self._name = str(receipt["link"])
        self._toxic = server.own_name(receipt) if receipt["toxic"] is not None else None
        self._deadline = asyncio.get_running_loop().time() + ALL_S
        self._where = f"{server.address(site)}: link {self._name}"

    def _tell(self, what: str) -> None:
        told = _did.setdefault(self._site.id, [])
        if len(told) < _KEPT:
            told.append(what)
        while len(_did) > _KEPT:
            _did.pop(next(iter(_did)))

    def _left_s(self) -> float:
        return self._deadline - asyncio.get_running_loop().time()

    async def climb(self) -> None:
        there = await self._read()
        if there is None:
            if not await self._alive():
                return await self._wake()
            self._note(None)
            self._tell(f"the server lists no proxies within {READ_S:g} s, though it tells its version: it is stuck")
        else:
            self._note(there)
            if not self._in(there):
                return await self._mend(there)
            await self._change("DELETE", path_of(self._name, "toxics", str(self._toxic)), "toxic removed", (204, 404))
            there = await self._read()
            if there is not None and not self._in(there):
                return await self._mend(there)
        if await self._cut_and_open() or await self._anew():
            return None
        return await self._restart()

    def _note(self, there: dict[str, Link] | None) -> None:
        """Keep how the fault stands, once: what is read after a change says nothing of the time before."""
        link = None if there is None else there.get(self._name)
        if there is None:
            seen: dict[str, JSON] = {"stands": False, "reason": "its server was stuck, and did not say how it stood"}
        elif link is None:
            seen = {"stands": False, "reason": "the link was not there any more"}
        else:
            toxics = [str(each.get("name")) for each in link.toxics]
            seen = {"stands": server.stands(self._receipt, link), "enabled": link.enabled, "toxics": [*toxics]}
        _found.setdefault(self._site.id, seen)
        while len(_found) > _KEPT:
            _found.pop(next(iter(_found)))

    def _in(self, there: dict[str, Link]) -> bool:
        """Whether the fault's toxic is listed; a link that is cut is mended instead."""
        link = there.get(self._name)
        return self._toxic is not None and link is not None and link.toxic(self._toxic) is not None

    async def _mend(self, there: dict[str, Link]) -> None:
        """Bring the link to what it was: there, and enabled."""
        link = there.get(self._name)
        if link is None:
            await self._create(there)
        elif not link.enabled:
            await self._change("PATCH", path_of(self._name), "link enabled", (200,), {"enabled": True}, must=True)

    async def _cut_and_open(self) -> bool:
        """Disable the link, so that its connections end; enable it once the toxic is gone."""
        await self._change("PATCH", path_of(self._name), "link disabled", (200,), {"enabled": False})
        there = await self._read()
        if there is not None and self._in(there):
            await self._change("DELETE", path_of(self._name, "toxics", str(self._toxic)), "toxic removed", (204, 404))
            there = await self._read()
        if there is None or self._in(there):
            return False
        await self._mend(there)
        return True

    async def _anew(self) -> bool:
        """Delete the link and create it as the receipt knows it; the new one has no toxics."""
        if not await self._change("DELETE", path_of(self._name), "link deleted", (204, 404)):
            return False
        if not await self._change("POST", "/proxies", "link created anew", (201,), self._form()):
            return False
        there = await self._read()
        return there is not None and self._name in there and not self._in(there)

    def _form(self) -> dict[str, JSON]:
        for each in _forms(self._receipt):
            if each.get("name") == self._name:
                return each
        raise InjectionError(f"{self._where}: its receipt does not say how it was")

    async def _wake(self) -> None:
        """Start a server anew that says nothing at all, where it is ours and there; raise where it is not."""
        owner = await self._owner()
        if owner is None:
            raise InjectionError(f"{self._where}: its server does not answer, so nothing can be withdrawn there")
        self._note(None)
        self._tell("the server answers nothing at all, though it listens")
        await self._killed(owner)

    async def _owner(self) -> Any:
        return await asyncio.to_thread(owned, server.address(self._site)) if self._receipt["owned"] else None

    async def _restart(self) -> None:
        if self._left_s() < RESTART_S:
            raise InjectionError(f"{self._where}: {self._last()}; no time is left in this attempt")
        owner = await self._owner()
        if owner is None:
            raise InjectionError(
                f"{self._where}: its server is stuck and is no process of a stack of ours: restart it ({self._last()})"
            )
        await self._killed(owner)

    async def _killed(self, owner: Any) -> None:
        """Kill the server, wait for its supervisor to start it again, and create what it forgot."""
        await asyncio.to_thread(owner.signal, signal.SIGKILL)
        self._tell(f"server killed (process {owner.pid}), for its supervisor to start it again")
        while (there := await self._read(quietly=True)) is None:
            if self._left_s() < READ_S:
                raise InjectionError(f"{self._where}: the server was killed, and is not there again yet")
            await asyncio.sleep(_PAUSE_S)
        self._tell("server answers again")
        await self._create(there)

    async def _create(self, there: Iterable[str]) -> None:
        """Create every link that was there before the fault and is not now, this one first."""
        known = set(there)
        forms = sorted(_forms(self._receipt), key=lambda each: each.get("name") != self._name)
        for form in (form for form in forms if form.get("name") not in known):
            what = f"link {form.get('name')} created as before"
            if self._left_s() < 0:
                raise InjectionError(f"{self._where}: {self._last()}; no time is left in this attempt")
            await self._change("POST", "/proxies", what, (201, 409), form, must=True)

    def _last(self) -> str:
        return str((_did.get(self._site.id) or ["nothing helped"])[-1])

    async def _read(self, *, quietly: bool = False) -> dict[str, Link] | None:
        try:
            return await server.links(self._site, READ_S)
        except InjectionError as error:
            if not quietly:
                self._tell(str(error))
            return None

    async def _alive(self) -> bool:
        try:
            await ask(self._site, "GET", "/version", total_s=READ_S / 2)
        except InjectionError:
            return False
        return True

    async def _change(
        self,
        method: str,
        path: str,
        what: str,
        accept: tuple[int, ...],
        json: JSON = None,
        *,
        must: bool = False,
    ) -> bool:
        """Ask for one change, tell what came of it, and say whether it was answered as hoped.

        What is refused is asked for again while there is time; where no answer came the other rungs have the time. One
        that `must` be then raises what the server said last.
        """
        for again in range(_TRIES - 1, -1, -1):
            try:
                await ask(self._site, method, path, json=json, accept=accept, total_s=CHANGE_S)
            except InjectionError as error:
                refused = isinstance(error.__cause__, Failure) and error.__cause__.kind == "status"
                last = not again or not refused or self._left_s() < CHANGE_S
                if last and must:
                    raise
                self._tell(str(error))
                if last:
                    return False
                await asyncio.sleep(_PAUSE_S)
            else:
                break
        self._tell(what)
        return True


def _forms(receipt: Receipt) -> list[dict[str, JSON]]:
    found: Any = receipt["links"]
    return [dict(each) for each in found]


def owned(url: str) -> Any:
    """Return the process that listens behind a door on this machine, if it belongs to a stack of ours; else null.

    Such a process is started again by the stack's supervisor when it dies; nobody else's is ever signalled.
    """
    import psutil

    from sim.stack.procs import TAG, Proc

    parts = urlsplit(url)
    if not loopback(parts.hostname or ""):
        return None
    # The table once for all: once for each process it takes seconds where many stacks run.
    table: list[Any] = [each for each in psutil.net_connections("tcp") if each.status == psutil.CONN_LISTEN]
    at_port = [each for each in table if each.laddr[1] == parts.port and _meets(each.laddr[0], parts.hostname)]
    for pid in {each.pid for each in at_port if each.pid is not None}:
        try:
            found = Proc.of(pid)  # before the tag: of a pid that is reused meanwhile it finds nobody
            if found is not None and TAG in psutil.Process(pid).environ():
                return found
        except (psutil.Error, OSError):  # gone meanwhile, or somebody else's
            continue
    return None


def _meets(listens: str, host: str | None) -> bool:
    """Say whether who listens at the address `listens` may be who answers at `host`, which is loopback."""
    address = ipaddress.ip_address(listens.partition("%")[0])
    address = getattr(address, "ipv4_mapped", None) or address
    if address.is_unspecified:
        return True
    try:
        return address == ipaddress.ip_address(host or "")
    except ValueError:  # a name, of either family
        return address.is_loopback
