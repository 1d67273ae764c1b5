"""What faults share that live at a target's fault door: a lease there is the fault, and the door takes it away again.

The door, off unless the target is started with SIM_FAULTS=1: ``GET /faults`` lists what is in force, ``PUT
/faults/{id}`` with ``{"point", "kind", "params", "ttl_s", "run"}`` sets a fault or renews it, ``DELETE /faults/{id}``
ends it, and a lease that nobody renews ends by itself. The module of one more such fault holds one `Leased` and keeps
what is its own: the arguments, the proof of the effect, what else must be well when it is gone, and the signal.
`http.fault`, which is told its point and kind by the exercise, works on the `FaultDoor` alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import quote

from injectors._http import objects, through
from sim.event import JSON
from sim.injector import InjectionError, Receipt, Site
from sim.wire import Client

#: A fault as the door lists it: `id`, and what it was set with.
Listed = dict[str, JSON]


@dataclass(frozen=True, slots=True)
class FaultDoor:
    """A fault door of the profile, by its name: who is in, and one fault set, renewed and ended there."""

    door: str

    def receipt(self, site: Site, /, **own: JSON) -> Receipt:
        """Return the receipt of one use: what the door needs, and what is the fault's `own` (at least `params`)."""
        return {**own, "fault": site.id, "run": site.run_id, "ttl_s": site.ttl_s}

    async def listed(self, client: Client) -> list[Listed]:
        """Return the faults in force. Raises `InjectionError` where the door is off or its answer is no list."""
        answer = await client.ask("GET", "/faults", accept=(200, 404))
        if answer.status == 404:
            raise InjectionError(
                f"GET {client.base_url}/faults: 404, the fault endpoint is off: start it with SIM_FAULTS=1"
            )
        return objects(answer.json, "faults", f"GET {client.base_url}/faults")

    async def free(self, client: Client, site: Site, where: str, taken: Callable[[Listed], object]) -> list[JSON]:
        """Return the faults in force, none of which is in the way.

        Raises `InjectionError` where a fault is already `where` this one shall be: one of the same id, or one that
        `taken` says so of.
        """
        faults = await self.listed(client)
        for fault in faults:
            if fault.get("id") == site.id or taken(fault):
                raise InjectionError(f"{client.base_url}: a fault is already {where}: {fault!r:.200}")
        return list(faults)

    async def send(self, site: Site, receipt: Receipt, **what: JSON) -> None:
        """Set the fault that `what` describes, or renew its lease: the same request is the same fault."""
        body: JSON = {**what, "ttl_s": receipt["ttl_s"], "run": receipt["run"]}
        async with through(site, self.door) as client:
            await client.ask("PUT", _path(receipt), json=body, accept=(200, 201))

    async def delete(self, site: Site, receipt: Receipt) -> None:
        """End the fault; one that is not there any more, or never was, is ended as well."""
        async with through(site, self.door) as client:
            await client.ask("DELETE", _path(receipt), accept=(200, 204, 404))

    async def holds(self, client: Client, receipt: Receipt) -> bool:
        """Say whether the fault is in force still, by the door's own list; for `gone`."""
        return any(fault.get("id") == receipt["fault"] for fault in await self.listed(client))


@dataclass(frozen=True, slots=True)
class Leased(FaultDoor):
    """One kind of fault at one fault door; `put` is its apply and its renew, `delete` its withdraw.

    `door` is the name of the profile's door, `point` and `kind` say there what is done where, and `params` are the
    names in the receipt of what the door is given as the fault's params. The receipt alone is enough to set, renew and
    end the fault, also in another process.
    """

    point: str
    kind: str
    params: tuple[str, ...]

    async def stood(self, client: Client, site: Site, where: str, taken: Callable[[Listed], object]) -> dict[str, JSON]:
        """Return how the target stood before, for `Prepared.prior`: its `identity`, and the `faults` in force.

        Raises `InjectionError` as `free` does.
        """
        identity = (await client.ask("GET", "/identity")).json
        return {"identity": identity, "faults": await self.free(client, site, where, taken)}

    async def put(self, site: Site, receipt: Receipt) -> None:
        """Set the fault, or renew its lease: the same request, which the door takes for the same fault."""
        params = {name: receipt[name] for name in self.params}
        await self.send(site, receipt, point=self.point, kind=self.kind, params=params)


def _path(receipt: Receipt) -> str:
    return f"/faults/{quote(str(receipt['fault']), safe='')}"
