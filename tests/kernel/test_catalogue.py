"""Names → values, from entry points and the modules of the packages that they name."""

from __future__ import annotations

import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from sim.catalogue import CannotLoad, NameClash, UnknownName, catalogue
from sim.observation import ObserverKind
from sim.rooms import Room, Shadowed, modules, named_in, stand_together

KIND = """
from pydantic import BaseModel
from sim.observation import ObserverKind
observer = ObserverKind("it", BaseModel, lambda opening: None)
"""


@pytest.fixture
def rooms(tmp_path, monkeypatch):
    """Return a maker of packages that can be imported, and are forgotten afterwards."""
    monkeypatch.syspath_prepend(str(tmp_path))
    made: list[str] = []

    def make(package: str, files: dict[str, str]) -> Path:
        made.append(package)
        for name, text in {"__init__.py": "", **files}.items():
            path = tmp_path / package / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        return tmp_path

    yield make
    for name in [each for each in sys.modules if each.partition(".")[0] in made]:
        del sys.modules[name]


def point(group: str, package: str) -> EntryPoint:
    """Return an entry point that no distribution brought."""
    return EntryPoint("any", package, group)


def test_names_are_module_paths(rooms):
    """Nested modules are names; private ones, and folders that are no packages, are not."""
    rooms("room_a", {"cdc/__init__.py": "", "cdc/delay.py": "", "int/__init__.py": "", "int/break_it.py": "",
                     "_tool.py": "", "cdc/_tool.py": "", "_priv/__init__.py": "", "_priv/x.py": "",
                     "data/x.py": "", "top.py": "", "notes.txt": ""})  # fmt: skip
    found = catalogue([point("sim.injectors", "room_a")])
    assert found.injectors == ("cdc.delay", "int.break_it", "top")
    assert (found.observers, found.chains, found.reports, found.broken) == ((), (), (), ())


def test_nothing_is_imported_before_it_is_asked_for(rooms):
    """Listing the names of a room runs none of its code."""
    rooms("room_b", {"__init__.py": "raise RuntimeError", "x.py": "raise RuntimeError"})
    assert catalogue([point("sim.reports", "room_b")]).reports == ("x",)
    assert "room_b" not in sys.modules


def test_a_name_gives_the_value_of_its_module(rooms):
    """An observer is the module's value named `observer`; chains and reports likewise."""
    rooms("room_c", {"see.py": KIND, "x.py": "report = chain = 7"})
    found = catalogue([point(f"sim.{kind}", "room_c") for kind in ("observers", "chains", "reports")])
    assert isinstance(found.observer("see"), ObserverKind)
    assert (found.chain("x"), found.report("x")) == (7, 7)


def test_an_unknown_name_says_what_was_meant(rooms):
    """The nearest name, or the list of names, and which rooms could not be looked into."""
    rooms("room_d", {"delay.py": ""})
    found = catalogue([point("sim.injectors", "room_d"), point("sim.injectors", "room_gone")])
    with pytest.raises(UnknownName, match="unknown injector 'dely'") as caught:
        found.injector("dely")
    assert caught.value.hint == ("did you mean 'delay'?; sim.injectors of room_gone: there is no package room_gone")
    with pytest.raises(UnknownName) as caught:
        catalogue([]).observer("x")
    assert caught.value.hint == "no observer is installed"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("import no_such_tool", "cannot be imported: ModuleNotFoundError: No module named 'no_such_tool'"),
        ("1/0", "cannot be imported: ZeroDivisionError: division by zero"),
        ("injektor = 1", "module room_e.x has no value named 'injector'"),
        ("injector = 1", "is a int, not a sim.injector.Injector"),
    ],
)
def test_what_cannot_be_loaded_is_told_under_its_name(rooms, text: str, reason: str):
    """A module that cannot be imported is listed, and fails by its name, with the reason."""
    rooms("room_e", {"x.py": text})
    found = catalogue([point("sim.injectors", "room_e")])
    assert found.injectors == ("x",)
    with pytest.raises(CannotLoad) as caught:
        found.injector("x")
    assert "'x'" in str(caught.value)
    assert reason in str(caught.value)


def test_two_packages_may_not_bring_one_name(rooms):
    """A clash names both owners; the same package named twice is no clash."""
    rooms("room_f", {"x.py": ""})
    rooms("room_g", {"x.py": ""})
    assert catalogue([point("sim.reports", "room_f")] * 2).reports == ("x",)
    with pytest.raises(NameClash, match=r"the report 'x': room_f \(of room_f\) and room_g \(of room_g\)"):
        catalogue([point("sim.reports", "room_f"), point("sim.reports", "room_g")])


def test_rooms_are_found_as_the_standard_library_finds_them(tmp_path):
    """The quick look at entry points reads what distributions bring, the first of a name on the path winning."""
    for folder, value in (("a", "one"), ("b", "two")):
        info = tmp_path / folder / "my_dist-1.0.dist-info"
        info.mkdir(parents=True)
        text = f"[console_scripts]\nx = y:z\n\n[sim.commands]\n# {folder}\nbundled = {value}.verbs\n\n[other]\nq = r\n"
        (info / "entry_points.txt").write_text(text, encoding="utf-8")
    path = [str(tmp_path / "none"), str(tmp_path / "a"), str(tmp_path / "b")]
    assert named_in("sim.commands", path) == (Room("one.verbs", "my-dist"),)
    assert named_in("sim.injectors", path) == ()


def test_the_bundled_rooms_are_found():
    """Our own rooms arrive by the entry points that a stranger's would use."""
    assert Room("injectors", "sim-harness") in named_in("sim.injectors")
    assert catalogue().broken == ()


def test_a_package_in_our_way_is_refused(rooms):
    """A package of one of our names that stands elsewhere is named, with the cure; a missing one is fine."""
    rooms("room_h", {})
    with pytest.raises(Shadowed, match=r"the package 'room_h' is found in .*an environment of its own"):
        stand_together(["sim", "room_h", "room_missing"])
    stand_together()


def test_every_module_of_our_rooms_can_be_loaded():
    """Each bundled name has the value that its room promises."""
    found = catalogue()
    loaded = [found.injector(name) for name in found.injectors]
    loaded += [found.observer(name) for name in found.observers]
    loaded += [found.chain(name) for name in found.chains]
    loaded += [found.report(name) for name in found.reports]
    assert len(loaded) == sum(map(len, (found.injectors, found.observers, found.chains, found.reports)))
    assert modules("sim.cli").keys() >= {"check", "list", "schema"}
