"""`pg.stall` against a real PostgreSQL, with a small Toxiproxy between it and a consumer that comes back."""

from __future__ import annotations

import asyncio
import contextlib
import json
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from injectors.pg import stall
from injectors.pg.stall import injector
from sim.injector import InjectionError, Site
from sim.secret import Secrets
from sim.target import Door
from tests.injectors import fake_toxiproxy, postgres_target

#: The kill matrix opens all that need the server in one process, one by one.
HOST = "postgres"


class Toxiproxy(fake_toxiproxy.Toxiproxy):
    """As a real one, a toxic that swallowed closes its connections when it goes: what is lost cannot be made up for."""

    async def one(self, request, link, toxic, body):
        answer = await super().one(request, link, toxic, body)
        if toxic is not None and request.method == "DELETE":
            for writer in list(link.open):
                writer.transport.abort()
        return answer


@asynccontextmanager
async def linked(sim=True):
    """Have the server's consumer behind the link `pg`; give the proxy, the doors, and the consumer."""
    server, proxy = postgres_target.primary(), Toxiproxy(sim)
    with fake_toxiproxy.quick():
        async with proxy.serve() as url:
            link = await proxy.add({"name": "pg", "listen": "127.0.0.1:0", "upstream": f"127.0.0.1:{server.port}"})
            through = server.url.replace(f":{server.port}/", f":{link.listen.rpartition(':')[2]}/")
            stack = contextlib.ExitStack()
            try:
                consumer = await asyncio.to_thread(stack.enter_context, postgres_target.consumer(server, through))
                yield proxy, {"postgres": Door(url=server.url), "proxy": Door(url=url)}, consumer
            finally:
                await asyncio.to_thread(stack.close)


@asynccontextmanager
async def fake_target():
    """Yield what the contract test uses: doors, arguments, and the proxy's own state."""
    async with linked() as (proxy, doors, _):
        yield doors, {"slot": "feed", "link": "pg"}, proxy.state


def against(work, sim=True):
    """Run `work(proxy, site, consumer)` with all that; return what it returns."""

    async def main():
        async with linked(sim) as (proxy, doors, consumer):
            return await work(proxy, Site("r1-0", "r1", doors, Secrets({}), ttl_s=6.0), consumer)

    return asyncio.run(main())


def params(**more):
    return injector.params.model_validate({"slot": "feed", "link": "pg", **more})


@pytest.mark.parametrize("sim", [True, False], ids=["with a lease", "without"])
def test_both_ways_stand_still_and_the_consumer_confirms_all_of_it_afterwards(sim):
    """PostgreSQL hears nothing; what was written meanwhile is confirmed before the fault counts as gone."""
    server = postgres_target.primary()

    async def work(proxy, site, consumer):
        prepared = await injector.prepare(site, params(silent="9s"))
        receipt = json.loads(json.dumps(prepared.receipt))
        await injector.apply(site, receipt)
        await injector.renew(site, receipt)
        seen = [await injector.effective(site, receipt), await injector.gone(site, receipt)]
        seen.append(await injector.effective(site, receipt | {"silent_s": 0.0}))
        with postgres_target.table(server):
            server.rows("INSERT INTO hot SELECT generate_series(1, 1000)")
        state = proxy.state()
        for _ in range(2):
            await injector.withdraw(site, receipt)
        return prepared, state, proxy.state(), [*seen, await injector.gone(site, receipt)]

    prepared, during, after, seen = against(work, sim)
    assert prepared.targets == ("slot feed through link pg",)
    assert during == ["pg/r1-0-upstream", "pg/r1-0-downstream"]
    assert after == []
    assert [each.holds for each in seen] == [False, False, True, True], "silence is what proves it, not the toxics"
    assert [seen[0].evidence[name] for name in ("link", "dropped")] == [[True, True], False]
    last = seen[3].evidence
    assert (last["link"], last["missing"], last["status"]) == ("whole", [], "reserved")
    assert last["confirmed"] >= last["must_confirm"] > prepared.prior["slot"]["written"]


def test_a_consumer_that_is_back_and_has_not_confirmed_is_not_gone(monkeypatch):
    """Streaming is not enough: what was written under the fault must have been confirmed."""

    async def work(proxy, site, consumer):
        receipt = (await injector.prepare(site, params())).receipt
        before = await injector.gone(site, receipt)
        monkeypatch.setitem(stall._UNTIL, site.id, 1 << 62)
        return before, await injector.gone(site, receipt)

    before, after = against(work)
    assert (before.holds, after.holds, after.evidence["missing"]) == (True, False, [])


def test_one_way_that_cannot_be_made_whole_does_not_keep_the_other_shut(monkeypatch):
    """Both are tried; what went wrong is told."""

    async def work(proxy, site, consumer):
        receipt = (await injector.prepare(site, params())).receipt
        await injector.apply(site, receipt)
        monkeypatch.setattr(stall, "blackhole", replace(stall.blackhole, withdraw=stuck))
        with pytest.raises(InjectionError) as caught:
            await injector.withdraw(site, receipt)
        left = proxy.state()
        monkeypatch.undo()
        await injector.withdraw(site, receipt)
        return str(caught.value), left

    withdraw = stall.blackhole.withdraw

    async def stuck(site, receipt):
        if "downstream" in site.id:
            raise InjectionError(f"{site.id} is stuck")
        await withdraw(site, receipt)

    assert against(work) == ("r1-0-downstream is stuck", ["pg/r1-0-downstream"])


def test_prepare_refuses_what_proves_nothing():
    """No slot, nobody there, a consumer that is silent for longer than that anyway, no such link."""

    async def work(proxy, site, consumer):
        said = []
        for given in ({"slot": "other"}, {"silent": 1e-6}, {"link": "nowhere"}):
            with pytest.raises(InjectionError) as caught:
                await injector.prepare(site, params(**given))
            said.append(str(caught.value))
        server = postgres_target.primary()
        for kind in ("physical_replication_slot('idle')", "logical_replication_slot('idle', 'test_decoding')"):
            server.rows(f"SELECT pg_create_{kind}")
            try:
                with pytest.raises(InjectionError) as caught:
                    await injector.prepare(site, params(slot="idle"))
            finally:
                server.rows("SELECT pg_drop_replication_slot('idle')")
            said.append(str(caught.value))
        return said

    other, silent, nowhere, physical, idle = against(work)
    assert other == "there is no slot 'other'"
    assert silent.startswith("the consumer of slot feed has said nothing for ")
    assert silent.endswith("silent (1e-06 s) must be longer than it ever is")
    assert "no link is called 'nowhere' (there are: db, pg)" in nowhere
    assert physical == "slot idle is physical: nobody confirms on it what was applied"
    assert idle == "nobody streams from slot idle"


def test_how_long_it_is_held():
    """As asked for, else the default."""
    assert [injector.duration_s(params(duration="3m")), injector.duration_s(params())] == [180.0, None]
