"""What every kind of fault must keep, whoever wrote it: the catalogue is asked what there is, and nothing is listed.

For its behaviour each injector brings a target of its own: its test module ``tests/injectors/test_<name>.py`` (dots
are underscores) has an async context manager ``fake_target()`` that yields ``(doors, arguments, state)``: the doors
that the injector needs, the arguments of one use of it, and a function that returns the target's own list of faults.

The kill matrix (``tests/live/test_kill_every.py``) opens the same target in one process and injects from another. So
its doors are addresses (or commands), it drops a fault itself where the injector's lease is ``target``, and its list
reads the same before a run and after. A test module may bring more: ``stand_in()``, a context manager that
is entered in the process that injects, for what would start something heavy there; and ``real_target()``, as
``fake_target()`` but with the real part behind it (see `tests.conftest.missing` for where there is none). Where
``fake_target()`` only does its part when it is looked at from within, ``apart_target()`` is one that does it by itself;
and where each would start a server, all that say the same ``HOST = "name"`` are opened in one process, one by one.
"""

from __future__ import annotations

import asyncio
import importlib.util
import inspect
import json
import math
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict, Field

from sim.catalogue import catalogue
from sim.injection import Injection, from_intent, intent
from sim.injector import InjectionError, Injector, Prepared, Probe, Signal, Site
from sim.log import canonical
from sim.plan import Fault
from sim.secret import Secrets
from sim.target import Door

HERE = Path(__file__).parent
NAMES = catalogue().injectors
CALLS = ("prepare", "apply", "effective", "withdraw", "gone")
METRIC = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")


# -- the form --------------------------------------------------------------------------------------------------------


def form(injector: Injector) -> list[str]:
    """Return what is wrong with the value itself; nothing is called but its signal."""
    found = list(_params(injector))
    if not injector.summary.strip() or "\n" in injector.summary:
        found.append("its summary is one line of text")
    if not all(isinstance(door, str) and door for door in injector.doors) or not injector.doors:
        found.append("it declares the doors that it goes through, by name")
    if injector.lease not in ("target", "none"):
        found.append(f"its lease is target or none, not {injector.lease!r}")
    if injector.lease == "target" and injector.renew is None:
        found.append("a fault that the target drops must be renewable")
    for name in (*CALLS, *(name for name in ("renew", "drive", "held") if getattr(injector, name) is not None)):
        if not inspect.iscoroutinefunction(getattr(injector, name)):
            found.append(f"{name} is not a coroutine function")
    return found


def _params(injector: Injector) -> Iterator[str]:
    model = injector.params
    if not (inspect.isclass(model) and issubclass(model, BaseModel)):
        yield "its params are a pydantic model"
        return
    if model.model_config.get("extra") != "forbid" or not model.model_config.get("frozen"):
        yield "its params are frozen, and forbid what they do not know"
    for name, field in model.model_fields.items():
        if not (field.description or "").strip():
            yield f"the argument {name} has no description"
    unknown = set(injector.positional) - set(model.model_fields)
    if unknown or len(set(injector.positional)) != len(injector.positional):
        yield f"its positional arguments are not some of its fields: {', '.join(injector.positional)}"


def signal(injector: Injector, params: BaseModel) -> list[str]:
    """Return what is wrong with the signal that a rule engine is shown in virtual time."""
    found = []
    series = injector.signal(params) if injector.signal is not None else None
    if series is not None and not series:
        found.append("it declares no signal, so no dry-run can show it")
    for each in series or ():
        times = [at for at, _ in each.points]
        if not METRIC.fullmatch(each.metric) or not times:
            found.append(f"a series has a metric's name and points, not {each.metric!r} and {len(times)}")
        if times != sorted(set(times)) or any(at < 0 or not math.isfinite(at) for at in times):
            found.append(f"the points of {each.metric} count up from t0")
        if not all(math.isfinite(value) for _, value in each.points):
            found.append(f"the values of {each.metric} are numbers")
    hold_s = injector.duration_s(params)
    if hold_s is not None and not 0 < hold_s < math.inf:
        found.append(f"its hold time is a positive number of seconds, not {hold_s!r}")
    return found


# -- the behaviour ---------------------------------------------------------------------------------------------------

State = Callable[[], list[Any]]


async def behaviour(
    injector: Injector, other: Injector, doors: Mapping[str, Door], given: Any, state: State
) -> list[str]:
    """Use the injector once, and return what is wrong; `other` is the same as another process has it."""
    found: list[str] = []
    try:
        await _used(injector, other, doors, given, state, found)
    except Exception as error:  # noqa: BLE001 - whatever it raises is one more thing that is wrong
        found.append(f"{type(error).__name__}: {error}")
    return found


async def _used(
    injector: Injector, other: Injector, doors: Mapping[str, Door], given: Any, state: State, found: list[str]
) -> None:
    site = Site("contract-1", "contract", dict(doors), Secrets({}), ttl_s=30.0)

    def hold(so: bool, what: str) -> None:
        if not so:
            found.append(what)

    hold(set(doors) == set(injector.doors), f"it declares {sorted(injector.doors)} and is given {sorted(doors)}")
    before = state()
    prepared = await injector.prepare(site, injector.params.model_validate(given))
    hold(state() == before, "prepare changed the target")
    hold(bool(prepared.targets), "prepare names what will be hit")
    record = _journalled(injector, site, prepared, found)
    if record is None:
        return
    elsewhere = from_intent(record, lambda _: other, Secrets({}))
    await other.withdraw(elsewhere.site, elsewhere.receipt)
    hold((await _gone(other, elsewhere, found)).holds, "withdrawing what was never applied must succeed")
    await injector.apply(site, prepared.receipt)
    hold(state() != before, "apply left no trace in the target's own list")
    hold(not (await _gone(injector, elsewhere, found)).holds, "gone holds while the fault is in")
    _plain((await injector.effective(site, prepared.receipt)).evidence, "the evidence of the effect", found)
    if injector.renew is not None:
        during = len(state())
        await injector.renew(site, prepared.receipt)
        hold(len(state()) == during, "a renewal is not the same fault")
    for _ in range(2):
        await other.withdraw(elsewhere.site, dict(elsewhere.receipt))
    hold(state() == before, "after withdraw the target's own list is not as before")
    for _ in range(2):
        hold((await _gone(other, elsewhere, found)).holds, "gone does not hold after withdraw")
    hold(state() == before, "gone changed the target")


def _journalled(injector: Injector, site: Site, prepared: Prepared, found: list[str]) -> Any:
    """Return what a journal gives another process to undo with; null where it cannot be written."""
    fault = Fault(injector="contract", text="contract", params={}, lease=injector.lease, doors=injector.doors)
    made = Injection(fault, injector, site, receipt=prepared.receipt, prior=prepared.prior)
    record = intent(made, 0.0)
    return json.loads(canonical(record)) if _plain(record, "the receipt", found) else None


def _plain(value: Any, what: str, found: list[str]) -> bool:
    """Whether a value is plain JSON: the same after it was written and read."""
    try:
        same = bool(json.loads(canonical(value)) == value)
    except (TypeError, ValueError):
        same = False
    if not same:
        found.append(f"{what} is not plain JSON")
    return same


async def _gone(injector: Injector, elsewhere: Injection, found: list[str]) -> Probe:
    probe = await injector.gone(elsewhere.site, elsewhere.receipt)
    _plain(dict(probe.evidence), "the evidence of being gone", found)
    return probe


# -- every injector --------------------------------------------------------------------------------------------------


def fake_target(name: str) -> Any:
    """Return the target that the injector's own test brings; fail the test where it brings none."""
    path = HERE / f"test_{name.replace('.', '_')}.py"
    if not path.is_file():
        pytest.fail(f"{name} has no test of its own: write tests/injectors/{path.name}")
    spec = importlib.util.spec_from_file_location(f"contract_of_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, "fake_target"):
        pytest.fail(
            f"tests/injectors/{path.name} has no fake_target(): an async context manager, (doors, params, state)"
        )
    return module.fake_target()


def afresh(name: str, monkeypatch: pytest.MonkeyPatch) -> Injector:
    """Return the injector from a second import of its module, which knows nothing that the first remembers."""
    entry = catalogue().entries["sim.injectors"][name]
    monkeypatch.delitem(sys.modules, f"{entry.package}.{name}", raising=False)
    return catalogue().injector(name)


def test_there_are_injectors() -> None:
    """A contract that nobody is held to proves nothing."""
    assert NAMES


@pytest.mark.parametrize("name", NAMES)
def test_the_form_of(name: str) -> None:
    """Typed, described, with an honest lease, and awaitable throughout."""
    assert form(catalogue().injector(name)) == []


@pytest.mark.parametrize("name", NAMES)
def test_the_behaviour_of(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prepare changes nothing; withdraw and gone work from the journal alone, twice, and before any apply."""
    injector = catalogue().injector(name)
    other = afresh(name, monkeypatch)

    async def used() -> list[str]:
        async with fake_target(name) as (doors, given, state):
            return await behaviour(injector, other, doors, given, state)

    assert asyncio.run(used()) == []


@pytest.mark.parametrize("name", NAMES)
def test_the_signal_of(name: str) -> None:
    """A rule engine can be shown what the fault looks like, where its kind knows what the target measures."""
    injector = catalogue().injector(name)

    async def given() -> Any:
        async with fake_target(name) as (_, arguments, _state):
            return arguments

    assert signal(injector, injector.params.model_validate(asyncio.run(given()))) == []


# -- the contract notices --------------------------------------------------------------------------------------------


class Arguments(BaseModel):
    """The arguments of a good injector."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    dose: float = Field(default=1.0, description="How much of it.")


class Loose(BaseModel):
    """The arguments of one that takes anything, and tells nothing."""

    dose: float = 1.0


TARGET: dict[str, Any] = {}


async def _prepare(site: Site, _: BaseModel) -> Prepared:
    return Prepared({"fault": site.id}, ("it",))


async def _apply(site: Site, receipt: Any) -> None:
    TARGET[str(receipt["fault"])] = 1


async def _effective(site: Site, receipt: Any) -> Probe:
    return Probe(True, {})


async def _withdraw(site: Site, receipt: Any) -> None:
    TARGET.pop(str(receipt["fault"]), None)


async def _is_gone(site: Site, receipt: Any) -> Probe:
    return Probe(str(receipt["fault"]) not in TARGET, {"listed": str(receipt["fault"]) in TARGET})


GOOD = Injector(
    summary="a good one",
    params=Arguments,
    positional=("dose",),
    doors=("door",),
    lease="target",
    prepare=_prepare,
    apply=_apply,
    effective=_effective,
    withdraw=_withdraw,
    gone=_is_gone,
    signal=lambda _: (Signal("metric", {}, ((0.0, 0.0), (1.0, 5.0))),),
    renew=_apply,
)


def _sync(site: Site, receipt: Any) -> None:
    TARGET.clear()


FORMS: list[tuple[dict[str, Any], str]] = [
    ({"params": Loose, "positional": ()}, "its params are frozen, and forbid what they do not know"),
    ({"params": Loose}, "the argument dose has no description"),
    ({"params": dict}, "its params are a pydantic model"),
    ({"positional": ("doze",)}, "its positional arguments are not some of its fields: doze"),
    ({"positional": ("dose", "dose")}, "its positional arguments are not some of its fields: dose, dose"),
    ({"doors": ()}, "it declares the doors that it goes through, by name"),
    ({"renew": None}, "a fault that the target drops must be renewable"),
    ({"lease": "mine", "renew": None}, "its lease is target or none, not 'mine'"),
    ({"withdraw": _sync}, "withdraw is not a coroutine function"),
    ({"drive": _sync}, "drive is not a coroutine function"),
    ({"summary": " "}, "its summary is one line of text"),
]


@pytest.mark.parametrize(("changes", "told"), FORMS)
def test_a_bad_form_is_noticed(changes: dict[str, Any], told: str) -> None:
    """One thing wrong with a good injector is told as that; the good one is not told anything."""
    assert form(GOOD) == []
    assert told in form(replace(GOOD, **changes))


SIGNALS: list[tuple[dict[str, Any], str]] = [
    ({"signal": lambda _: ()}, "it declares no signal, so no dry-run can show it"),
    ({"signal": lambda _: (Signal("a metric", {}, ((0.0, 1.0),)),)}, "a series has a metric's name and points"),
    ({"signal": lambda _: (Signal("metric", {}, ()),)}, "a series has a metric's name and points"),
    ({"signal": lambda _: (Signal("metric", {}, ((2.0, 1.0), (1.0, 1.0))),)}, "the points of metric count up from t0"),
    ({"signal": lambda _: (Signal("metric", {}, ((-1.0, 1.0),)),)}, "the points of metric count up from t0"),
    ({"signal": lambda _: (Signal("metric", {}, ((0.0, math.nan),)),)}, "the values of metric are numbers"),
    ({"duration_s": lambda _: 0.0}, "its hold time is a positive number of seconds, not 0.0"),
]


@pytest.mark.parametrize(("changes", "told"), SIGNALS)
def test_a_bad_signal_is_noticed(changes: dict[str, Any], told: str) -> None:
    """As above, for what a rule engine is shown."""
    assert signal(GOOD, Arguments()) == []
    assert any(each.startswith(told) for each in signal(replace(GOOD, **changes), Arguments()))


async def _hasty(site: Site, params: BaseModel) -> Prepared:
    TARGET["early"] = 1
    return await _prepare(site, params)


async def _nothing(site: Site, params: BaseModel) -> Prepared:
    return replace(await _prepare(site, params), targets=())


async def _unwritable(site: Site, params: BaseModel) -> Prepared:
    return replace(await _prepare(site, params), receipt={"fault": site.id, "at": (1, 2)})


async def _strict(site: Site, receipt: Any) -> None:
    if str(receipt["fault"]) not in TARGET:
        raise InjectionError("no such fault")
    await _withdraw(site, receipt)


async def _idle(site: Site, receipt: Any) -> None:
    return None


async def _again(site: Site, receipt: Any) -> None:
    TARGET[f"{receipt['fault']} again"] = 1


async def _always(site: Site, receipt: Any) -> Probe:
    return Probe(True, {})


async def _never(site: Site, receipt: Any) -> Probe:
    return Probe(False, {"seen": {1}})  # type: ignore[dict-item]


BEHAVIOURS: list[tuple[dict[str, Any], str]] = [
    ({"prepare": _hasty}, "prepare changed the target"),
    ({"prepare": _nothing}, "prepare names what will be hit"),
    ({"prepare": _unwritable}, "the receipt is not plain JSON"),
    ({"apply": _idle}, "apply left no trace in the target's own list"),
    ({"withdraw": _idle}, "after withdraw the target's own list is not as before"),
    ({"withdraw": _strict}, "InjectionError: no such fault"),
    ({"renew": _again}, "a renewal is not the same fault"),
    ({"gone": _always}, "gone holds while the fault is in"),
    ({"gone": _never}, "gone does not hold after withdraw"),
    ({"gone": _never}, "the evidence of being gone is not plain JSON"),
    ({"doors": ("door", "window")}, "it declares ['door', 'window'] and is given ['door']"),
]


@pytest.mark.parametrize(("changes", "told"), BEHAVIOURS)
def test_a_bad_behaviour_is_noticed(changes: dict[str, Any], told: str) -> None:
    """As above, for what it does to a target."""

    def play(injector: Injector) -> list[str]:
        TARGET.clear()
        doors = {"door": Door(url="http://fake")}
        return asyncio.run(behaviour(injector, injector, doors, {}, lambda: sorted(TARGET)))

    assert play(GOOD) == []
    assert told in play(replace(GOOD, **changes))


def test_an_injector_without_a_target_is_told_what_to_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test module, or one without the target: the file and the function are named."""
    with pytest.raises(pytest.fail.Exception, match=r"write tests/injectors/test_no_such_fault\.py"):
        fake_target("no.such_fault")
    bare = tmp_path / "test_bare_fault.py"
    bare.write_text("")
    monkeypatch.setattr(sys.modules[__name__], "HERE", tmp_path)
    with pytest.raises(pytest.fail.Exception, match=r"test_bare_fault\.py has no fake_target\(\)"):
        fake_target("bare.fault")
