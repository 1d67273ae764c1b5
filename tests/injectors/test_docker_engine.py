"""What the faults of containers share: the door, whom it lets see, what the kernel shows, and errors that say who."""

from __future__ import annotations

import asyncio

import pytest

from injectors._docker import chosen, looks
from injectors._docker import engine as door
from injectors.docker.pause import injector
from sim.catalogue import catalogue
from sim.injector import InjectionError, Site
from sim.secret import Secrets
from sim.target import Door
from tests.injectors.fake_engine import Box, Engine, against, place, refused, serving, site


def through(url, **more):
    """Return why a pause through that door is refused."""
    where = Site("r1-1", "r1", {} if url is None else {"docker": Door(url=url, **more)}, Secrets({}))

    async def work():
        with pytest.raises(InjectionError) as error:
            await injector.prepare(where, injector.params(container="web"))
        return str(error.value)

    return asyncio.run(work())


@pytest.mark.parametrize(
    ("url", "why"),
    [
        (None, "the profile opens no door 'docker': add doors.docker with its url"),
        ("http://127.0.0.1:2375", "doors.docker: 'http://127.0.0.1:2375' is no engine: write unix:///path or tcp://"),
        ("unix:///no?name=web", "doors.docker: after the address only ?label=KEY=VALUE is understood, not 'name=web'"),
        ("unix:///no?web", "doors.docker: after the address only ?label=KEY=VALUE is understood, not 'web'"),
        ("unix:///no/such.sock", "GET /version of unix:///no/such.sock: [Errno 2] No such file or directory"),
        ("tcp://127.0.0.1:1", "GET /version of tcp://127.0.0.1:1: Error while fetching server API version"),
    ],
)
def test_a_door_that_leads_to_no_engine_says_so(url, why):
    """One clear error, before anything is touched."""
    assert through(url).startswith(why)


def test_a_door_with_auth_is_refused():
    """It would be sent nowhere, and nobody should think that it was."""
    told = through("tcp://127.0.0.1:1", auth="env:TOKEN")
    assert told == "doors.docker: an engine is reached without auth here; forward its socket instead"


def test_no_proxy_of_the_environment_comes_between(monkeypatch):
    """An engine is asked directly, whatever the shell has set."""
    for name in ("ALL_PROXY", "HTTP_PROXY", "all_proxy", "http_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert against(Engine(Box("web")), lambda where: injector.prepare(where, injector.params(container="web"))).targets


SHOP, MALL = ({"sim.environment": "sim-test", "project": name, chosen.SERVICE: "db"} for name in ("shop", "mall"))


def test_a_door_narrowed_by_a_label_shows_no_other_container():
    """Not by name, not by label; and a service of Compose is found by its name."""
    engine = Engine(Box("shop-db-1", labels=SHOP), Box("mall-db-1", labels=MALL), Box("web"))

    async def work(where):
        narrow = site(f"{where.doors['docker'].url}?label=project=shop")

        async def hit(text):
            return (await injector.prepare(narrow, injector.params(container=text))).targets

        found = [await hit(text) for text in ("shop-db-1", "db", f"{chosen.SERVICE}=db")]
        return found, [await refused(injector, narrow, container=text) for text in ("web", "mall-db-1")]

    found, told = against(engine, work)
    assert found == [("container shop-db-1 (73686f702d64)",)] * 3
    there = "on URL with project=shop (there: shop-db-1)"
    assert told == [f"no container {name!r} {there}" for name in ("web", "mall-db-1")]


def test_zero_targets_is_an_error_that_says_what_there_is():
    """A name that nobody has, and a label that nobody running has; a service's name needs a narrowed door."""
    engine = Engine(Box("web"), Box("shop-db-1", labels=SHOP, status="exited"))

    async def work(where):
        return [await refused(injector, where, container=text) for text in ("api", "db", "project=shop")]

    there = "on URL (there: shop-db-1, web)"
    assert against(engine, work) == [f"no container {text!r} {there}" for text in ("api", "db", "project=shop")]


def test_more_than_a_handful_is_refused():
    """A selector that is too wide is a mistake."""
    engine = Engine(*(Box(f"web{number}") for number in range(17)))
    told = against(engine, lambda where: refused(injector, where, container="sim.environment=sim-test"))
    assert told == "'sim.environment=sim-test' means 17 containers; one fault hits at most 16"


def test_one_without_the_label_is_hit_only_if_asked_so():
    """The word stands in the exercise, where everybody sees it."""
    engine = Engine(Box("web", labels={}))

    async def work(where):
        return await injector.prepare(where, injector.params(container="web", unlabelled=True))

    assert against(engine, work).targets == ("container web (776562776562)",)


def test_the_container_that_sim_runs_in_is_not_hit(tmp_path, monkeypatch):
    """It would freeze the runner, and whoever should undo it."""
    own = tmp_path / "mountinfo"
    own.write_text(f"9 8 0:1 /docker/containers/{Box('web').id}/hostname /etc/hostname rw - ext4 sda rw\n")
    assert chosen._is_ours(Box("web").id, own)
    assert not chosen._is_ours(Box("api").id, own)
    assert not chosen._is_ours(Box("web").id, tmp_path / "none")
    monkeypatch.setattr(chosen, "_is_ours", lambda container: container == Box("web").id)
    told = against(Engine(Box("web")), lambda where: refused(injector, where, container="web"))
    assert told == "container web (776562776562) is the one that sim itself runs in"


@pytest.mark.parametrize(("given", "seconds"), [({}, None), ({"duration": "90s"}, 90.0)])
def test_the_hold_time(given, seconds):
    """As every fault has it."""
    assert injector.duration_s(injector.params(container="web", **given)) == seconds


# -- what the kernel shows ---------------------------------------------------------------------------------------


class Local:
    """An engine on this machine, or not."""

    def __init__(self, path="/run/engine.sock"):
        self.local = path


def container(pid=77):
    """Return a container whose main process has that pid."""
    return door.Container({"Id": "c" * 64, "Name": "/c", "State": {"Pid": pid}})


def process(proc, pid, cgroup, *names):
    """Write what procfs has of a process."""
    (proc / str(pid) / "net").mkdir(parents=True)
    (proc / str(pid) / "cgroup").write_text(cgroup)
    head = "Inter-|   Receive\n face |bytes\n"
    (proc / str(pid) / "net" / "dev").write_text(head + "".join(f"  {name}: 0 0\n" for name in ("lo", *names)))


def test_interfaces_are_those_of_the_container_s_own_process(tmp_path):
    """A pid that another process has by now, an engine elsewhere, or one that is down: nothing is seen, not a lie."""
    process(tmp_path, 77, f"9:name=systemd:/docker/{'c' * 64}\n0::/\n", "eth1", "eth0")
    process(tmp_path, 78, "9:name=systemd:/user.slice\n0::/user.slice\n", "wlan0")
    assert looks.interfaces(Local(), container(77), tmp_path) == ["eth0", "eth1"]
    assert looks.interfaces(Local(), container(78), tmp_path) is None
    assert looks.interfaces(Local(None), container(77), tmp_path) is None
    assert looks.interfaces(Local(), container(0), tmp_path) is None
    assert looks.interfaces(Local(), container(99), tmp_path) is None


@pytest.mark.parametrize(("events", "told"), [("populated 1\nfrozen 1\n", True), ("frozen 0\n", False), ("", None)])
def test_the_kernel_says_what_is_frozen_under_control_groups_of_version_2(tmp_path, monkeypatch, events, told):
    """Its own file for that group, and only for that of the container."""
    path = f"/system.slice/docker-{'c' * 64}.scope"
    process(tmp_path, 77, f"0::{path}\n", "eth0")
    group = tmp_path / "groups" / path.lstrip("/")
    group.mkdir(parents=True)
    (group / "cgroup.events").write_text(events)
    monkeypatch.setattr(looks, "CGROUP", tmp_path / "groups")
    assert looks.frozen_by_kernel(Local(), container(77), tmp_path) is told
    assert looks.frozen_by_kernel(Local(None), container(77), tmp_path) is None
    assert looks.frozen_by_kernel(Local(), container(99), tmp_path) is None


@pytest.mark.parametrize(("told", "by"), [(True, "the kernel says frozen 1"), (False, "the kernel says frozen 0")])
def test_what_the_kernel_says_outranks_the_letters_of_ps(monkeypatch, told, by):
    """Under version 2 a frozen process looks like one that sleeps."""
    monkeypatch.setattr(looks, "frozen_by_kernel", lambda *_: told)

    async def work():
        async with serving(Engine(Box("web"))) as url, door.Engine(site(url)) as engine:
            found = await engine.inspect("web")
            return await looks.frozen(engine, found)

    assert asyncio.run(work()) == (told, {"processes": ["10 S init", "11 S app"], "by": by})


def test_a_list_of_processes_that_cannot_be_read_is_an_error():
    """A `ps` that tells something else proves nothing."""
    engine = Engine(Box("web"))

    async def work(where):
        async with door.Engine(where) as asked:
            found = await asked.inspect("web")
            for answer in ({"Titles": ["PID", "USER"], "Processes": [["1", "root"]]}, {}):
                asked.api.top = lambda *_, answer=answer: answer
                with pytest.raises(InjectionError, match="not a list of processes with pid, stat, time and comm"):
                    await looks.processes(asked, found)

    against(engine, work)


def test_an_error_of_ours_stays_one():
    """Not every exception is the engine's: a bug is not told as a target that did not answer."""

    async def work(where):
        async with door.Engine(where) as engine:
            with pytest.raises(ZeroDivisionError):
                await engine.ask("nonsense", lambda _: 1 / 0)

    against(Engine(Box("web")), work)


@pytest.mark.parametrize("name", ["cpu", "cut", "kill", "pause", "restart", "signal"])
def test_that_another_engine_does_not_know_the_container_is_no_end_of_the_fault(name):
    """Another one answers at the socket by now; the one that holds the container may come back with the fault."""
    kind, web = catalogue().injector(f"docker.{name}"), Box("web", networks={"front": place("api")})
    engine = Engine(web)

    async def work(site):
        receipt = (await kind.prepare(site, kind.params(container="web"))).receipt
        engine.boxes, engine.ids = {}, ["ENGINE:TWO"]
        await kind.withdraw(site, receipt)
        with pytest.raises(InjectionError) as error:
            await kind.gone(site, receipt)
        engine.ids = ["ENGINE:ONE"]
        return str(error.value).replace(site.doors["docker"].url, "URL"), (await kind.gone(site, receipt)).holds

    assert against(engine, work) == (
        "URL is another engine (ENGINE:TWO) than the one that container web is of (ENGINE:ONE): "
        "start that one there again, then sim recover",
        True,
    )


@pytest.mark.parametrize("kept", ["changes", "refused", "none"])
def test_an_engine_without_a_lasting_id_is_believed(kept):
    """Some make up another one for each answer, some stand behind what keeps it from us."""
    engine = Engine(Box("web"))
    engine.ids = {"changes": ["A", "B"], "refused": ["A"], "none": [""]}[kept]
    if kept == "refused":
        engine.fails["info"] = (403, "not allowed")

    async def work(site):
        receipt = (await injector.prepare(site, injector.params(container="web"))).receipt
        engine.boxes = {}
        return receipt["containers"][0]["engine"], (await injector.gone(site, receipt)).holds

    assert against(engine, work) == ("", True)
