"""The pages of docs/injectors are what the injectors declare: none is missing, stale, or written by hand."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field

from sim.catalogue import catalogue
from sim.injector import Injector, Probe
from sim.rooms import modules
from sim.target import Duration

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def docs():
    """Return the script as a module."""
    spec = importlib.util.spec_from_file_location("docs_injectors", ROOT / "scripts" / "docs_injectors.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.fixture(scope="module")
def wanted(docs):
    """Return the pages as they would be written now."""
    return docs.pages()


def test_there_is_one_page_for_each_injector_and_an_index(wanted):
    """What the room holds is what has a page; nobody keeps a list."""
    assert sorted(wanted) == sorted(["README.md", *(f"{name}.md" for name in modules("injectors"))])
    assert [name for name in modules("injectors") if f"({name}.md)" not in wanted["README.md"]] == []


def test_the_index_says_which_exercises_use_each(docs):
    """Those that none uses are told as well: a fault that nobody exercises is a promise."""
    text = docs.index({"net.late": GOOD, "net.x": GOOD}, {"net.late": [("a", "f", ""), ("b", "f", ""), ("a", "f", "")]})
    assert text.splitlines()[-2:] == [
        "| [`net.late`](net.late.md) | a link is late | `proxy`, `bare` | none | `a`, `b` |",
        "| [`net.x`](net.x.md) | a link is late | `proxy`, `bare` | none | none |",
    ]


def test_the_pages_are_as_the_injectors_declare(docs, wanted):
    """Changed a declaration, an exercise or a profile: `make docs`."""
    assert docs.differences(wanted, docs.FOLDER) == []


@pytest.mark.parametrize("name", modules("injectors"))
def test_each_injector_says_how_its_effect_and_its_end_are_proven(name):
    """In the docstrings of `effective` and `gone`: they stand on its page, for whoever has to believe the verdict."""
    injector = catalogue().injector(name)
    asked = {"effective": injector.effective, "gone": injector.gone, "held": injector.held}
    assert [key for key, probe in asked.items() if probe is not None and not (probe.__doc__ or "").strip()] == []


def test_whatever_differs_is_told_and_writing_cures_it(docs, wanted, tmp_path, capsys):
    """A page that is missing, stale or changed; after writing, none. A word that is not known is a usage error."""
    assert docs.main([], tmp_path) == 0
    assert docs.main(["--check"], tmp_path) == 0
    (tmp_path / "cdc.delay.md").write_text("by hand")
    (tmp_path / "exec.run.md").unlink()
    (tmp_path / "gone.fault.md").write_text("")
    assert docs.main(["--check"], tmp_path) == 1
    assert capsys.readouterr().out.splitlines() == [
        f"docs/injectors/{each}: run python -m scripts.docs_injectors"
        for each in (
            "cdc.delay.md is not what its injector declares",
            "exec.run.md is missing",
            "gone.fault.md belongs to no injector",
        )
    ]
    assert docs.main([], tmp_path) == 0
    assert docs.differences(wanted, tmp_path) == []
    assert docs.main(["--chek"], tmp_path) == 2


# -- what stands on a page -------------------------------------------------------------------------------------------


class Params(BaseModel):
    """One argument of each kind."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    link: Annotated[str, Field(min_length=1)] = Field(description="Which link.")
    late: Annotated[Duration, Field(gt=0, le=3600)] = Field(description="How late.")
    share: float = Field(0.5, gt=0, le=1, description="A share | of all.")
    count: Annotated[int, Field(ge=2)] | None = Field(None, description="How many.")
    hard: bool = Field(False, description="At once.")
    way: Literal["up", "down"] = Field("up", description="Which way.")
    to: tuple[str, ...] = Field((), description="Who.")
    hold: Annotated[Duration, Field(gt=0)] | None = Field(None, description="How long.")


async def _effective(site, receipt):
    """It is seen: ``twice``,
    and once more.
    """
    return Probe(True, {})


async def _silent(site, receipt):
    return Probe(True, {})


GOOD = Injector(
    summary="a link is late",
    params=Params,
    positional=("link", "late"),
    doors=("proxy", "bare"),
    lease="none",
    prepare=_silent,
    apply=_silent,
    effective=_effective,
    withdraw=_silent,
    gone=_effective,
    signal=None,
)
DOC = """A link that is late.

    An example::

        doors:
          bare: {url: x}

    More, with ``words``.
    """
PROFILES = {
    "one": {"doors": {"proxy": {"url": "${stack.proxy}"}}, "hooks": {"late": {"faults": ["net.late", "other"]}}},
    "two": {"doors": {"proxy": {"url": "other"}}},
}
PAGE = """<!-- Generated from injectors/net/late.py by `python -m scripts.docs_injectors`: change it there. -->

# `net.late`: a link is late

A link that is late.

An example:

```yaml
doors:
  bare: {url: x}
```

More, with `words`.

## Arguments

`net.late(link, late, share=…, count=…, hard=…, way=…, to=…, hold=…)`

| argument | is | default | means |
|---|---|---|---|
| `link` | text | required | Which link. |
| `late` | duration (`90s`, `5m`, or seconds), above 0s, at most 1h | required | How late. |
| `share` | number, above 0, at most 1 | `0.5` | A share \\| of all. |
| `count` | whole number, at least 2 | none | How many. |
| `hard` | true or false | `false` | At once. |
| `way` | `'up'` or `'down'` | `'up'` | Which way. |
| `to` | list of text | `[]` | Who. |
| `hold` | duration (`90s`, `5m`, or seconds), above 0s | none | How long. |

`link` and `late` may be given without their names, in this order.

## Doors

`proxy`, as the profile `one` opens it:

```yaml
doors:
  proxy: {url: '${stack.proxy}'}
```

`bare`, as it stands above. No bundled profile opens it.

## From effect to gone

- **Effect.** It is seen: `twice`, and once more.
- **No effect** within the budget `within: {effect: …}`: the fault is withdrawn, and the run is *inconclusive*, exit 4; never passed, never failed.
- **Gone.** It is seen: `twice`, and once more. Else the run is *unsafe*, exit 6.
- **Lease.** `none`. The fault stays until it is withdrawn. When the runner is killed, its watchdog withdraws it; when the watchdog is killed as well, it stays until `sim recover`, and no run starts on this target before.
- **In virtual time** it cannot be shown: what it does to the target's metrics is the target's own.

## Used by

- `slow` in [scenarios/x.yaml](../../scenarios/x.yaml): `net.late('a', '1s')`
- In the profile `one` it is a fault of the hook `late`.
"""  # noqa: E501 - as it is written


def test_a_page_says_all_that_is_declared(docs):
    """Docstring, arguments with bounds and defaults, doors, proofs, lease, uses."""
    used = {"net.late": [("slow", "scenarios/x.yaml", "net.late('a', '1s')")]}
    assert docs.page("net.late", GOOD, DOC, PROFILES, used) == PAGE


def test_what_differs_between_injectors_is_told(docs):
    """Leases, a fault on this machine, traffic, company, a look back, an argument-less call, and nobody's door."""

    class Bare(BaseModel):
        """No arguments."""

    other = replace(
        GOOD, params=Bare, positional=(), doors=("x",), lease="target", renew=_silent, held=_silent, drive=_silent,
        accompany=lambda site, params: None, here=True, effective=_silent, signal=lambda params: (),
    )  # fmt: skip
    text = docs.page("net.late", other, "It.", {}, {})
    assert [line for line in text.splitlines() if line and not line.startswith(("#", "<"))] == [
        "It.",
        "`net.late()`",
        "It takes no arguments.",
        "`x`. No bundled profile opens it; yours does with `doors.x`.",
        "- **Effect.** As said above.",
        "- **No effect** within the budget `within: {effect: …}`: the fault is withdrawn, and the run is "
        "*inconclusive*, exit 4; never passed, never failed.",
        "- **Held.** As said above. If not, the run is *inconclusive*.",
        "- **Gone.** It is seen: `twice`, and once more. Else the run is *unsafe*, exit 6.",
        "- **Lease.** `target`. The target itself holds the fault for 10s at a time, and the runner renews it. When "
        "the runner is killed, its watchdog withdraws the fault; when everything is killed, the target drops it by "
        "itself as soon as the lease runs out. It is on this machine: it is withdrawn also when the stack is down "
        "already.",
        "- **Traffic** of its own runs beside the fault until it is withdrawn.",
        "- **Company**: traffic in a process of its own, from before the baseline until recovery is over.",
        "- **In virtual time** it declares what the fault looks like to a rule engine.",
        "No bundled exercise uses it.",
    ]
    leased = docs.lease_of(replace(GOOD, renew=_silent))
    assert leased.endswith("A target that can hold a lease is given one, which the runner renews.")
