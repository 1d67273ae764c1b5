"""Finding exercises and profiles, and picking what a command line asks for."""

from __future__ import annotations

from pathlib import Path

import pytest

from sim.loading import (
    NothingSelected,
    default_target,
    load_scenario,
    load_target,
    load_target_file,
    select,
    target_files,
)
from sim.places import Places
from sim.problem import InvalidFile, Usage

PROFILE = """target: toy
environment: sim-local
exercises:
  a: {tags: [nightly]}
  far: {tags: [nightly, slow]}
"""


def exercise(*names: str, tags: str = "") -> str:
    """Return a file of exercises."""
    tail = f", tags: [{tags}]" if tags else ""
    return "exercises:\n" + "".join(f"  {name}: {{inject: x.y(), expect: z{tail}}}\n" for name in names)


@pytest.fixture
def here(tmp_path, monkeypatch) -> Places:
    """Return places with an own folder of scenarios and a shipped one."""
    for path, text in {
        "own/one.yaml": exercise("a", "b", tags="d3"),
        "own/sub/two.yml": exercise("c"),
        "own/targets/toy.yaml": PROFILE,
        "shipped/one.yaml": exercise("a", "far", tags="old"),
        "shipped/targets/toy.yaml": PROFILE.replace("sim-local", "far-away"),
        "shipped/targets/other.yaml": PROFILE.replace("toy", "other"),
    }.items():
        file = tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return Places(tmp_path, tmp_path / ".sim", tmp_path / "runs", (tmp_path / "own", tmp_path / "shipped"), ())


def picked(here: Places, *selectors: str, tags: tuple[str, ...] = (), all_: bool = False) -> list[str]:
    """Return what is selected, as FILE::NAME."""
    chosen = select(selectors, tags, all_, here, load_target("toy", here))
    return [f"{each.file.resolve().relative_to(here.root)}::{each.name}" for each in chosen]


def test_a_nearer_profile_hides_a_farther_one(here):
    """Profiles are found by name, the project's own first, or by file."""
    assert load_target("toy", here).environment == "sim-local"
    assert load_target("other", here).target == "other"
    assert load_target("shipped/targets/toy.yaml", here).environment == "far-away"
    assert list(target_files(here)) == ["toy", "other"]
    profile = load_target_file("toy", here)
    assert profile.document.mark(("environment",)).line == 2


@pytest.mark.parametrize(("text", "meant"), [
    (None, "mbp-local"), ("", "mbp-local"), ('target = "toy"\n', "toy"),
])  # fmt: skip
def test_the_project_names_its_default(here, text: str | None, meant: str):
    """What sim.toml names is loaded where nothing else is asked for."""
    if text is not None:
        (here.root / "sim.toml").write_text(text, encoding="utf-8")
    assert default_target(here) == meant
    if meant == "toy":
        assert load_target(None, here) == load_target("toy", here)


@pytest.mark.parametrize(("text", "told"), [
    ("target = 3\n", 'sim.toml: target is the name of a target: target = "shop"'),
    ("target =\n", "sim.toml: Invalid value (at line 1, column 9)"),
])  # fmt: skip
def test_a_project_file_that_cannot_be_read_is_told(here, text: str, told: str):
    """The file is named, and what is wrong with it."""
    (here.root / "sim.toml").write_text(text, encoding="utf-8")
    with pytest.raises(Usage) as caught:
        default_target(here)
    assert str(caught.value) == told


def test_an_unknown_profile_says_what_was_meant(here):
    """A name that no profile has is a usage error with the nearest name."""
    with pytest.raises(Usage, match="no target is called 'tyo'\n  did you mean 'toy'"):
        load_target("tyo", here)
    with pytest.raises(Usage, match=r"there is no target profile 'x/no.yaml'"):
        load_target("x/no.yaml", here)


def test_a_profile_is_called_as_its_file(here):
    """A file whose profile has another name would be found by one name and journalled by another."""
    (here.root / "own/targets/wrong.yaml").write_text(PROFILE, encoding="utf-8")
    with pytest.raises(
        InvalidFile, match=r"wrong.yaml:1:9: error: target: the profile in wrong.yaml calls itself 'toy'"
    ):
        load_target("wrong", here)


def test_names_files_and_both(here):
    """A name is the nearer one; a file is all of it; FILE::NAME is one of it; each comes once, in the order asked."""
    assert picked(here, "far", "a") == ["shipped/one.yaml::far", "own/one.yaml::a"]
    assert picked(here, "shipped/one.yaml") == ["shipped/one.yaml::a", "shipped/one.yaml::far"]
    assert picked(here, "shipped/one.yaml::a", "a") == ["shipped/one.yaml::a", "own/one.yaml::a"]
    assert picked(here, "one.yaml", "a", "one.yaml::b") == ["own/one.yaml::a", "own/one.yaml::b"]


def test_everything_is_what_can_be_found_by_name(here):
    """--all takes each name once, subfolders included."""
    assert picked(here, all_=True) == (
        ["own/one.yaml::a", "own/one.yaml::b", "own/sub/two.yml::c", "shipped/one.yaml::far"]
    )


def test_tags_come_from_the_exercise_and_from_the_profile(here):
    """A tag alone searches everything; beside selectors it narrows them; several tags mean any of them."""
    assert picked(here, tags=("nightly",)) == ["own/one.yaml::a", "shipped/one.yaml::far"]
    assert picked(here, tags=("slow", "d3")) == ["own/one.yaml::a", "own/one.yaml::b", "shipped/one.yaml::far"]
    assert picked(here, "one.yaml", tags=("nightly",)) == ["own/one.yaml::a"]
    assert picked(here, tags=("old",)) == ["shipped/one.yaml::far"]


@pytest.mark.parametrize(
    ("selectors", "tags", "message"),
    [
        (
            (),
            (),
            "nothing selected: give NAME, FILE, FILE::NAME, --tag TAG or --all\n  exercises there are: a, b, c, far",
        ),
        (("fra",), (), "no exercise is called 'fra'\n  did you mean 'far'?"),
        (("one.yaml::bb",), (), "one.yaml has no exercise 'bb'\n  did you mean 'b'?"),
        (("no.yaml",), (), "there is no file 'no.yaml'\n  did you mean 'own/one.yaml'?"),
        (("c",), ("d9",), "no exercise has the tag 'd9'"),
        ((), ("d9",), "no exercise has the tag 'd9'\n  tags there are: d3, nightly, old, slow"),
    ],
)
def test_nothing_selected_says_what_there_is(here, selectors, tags, message: str):
    """An empty selection is never an empty run: it is its own ending, exit code 5."""
    with pytest.raises(NothingSelected) as caught:
        picked(here, *selectors, tags=tags)
    assert (str(caught.value), caught.value.exit_code) == (message, 5)


def test_a_faulty_file_stops_itself_and_not_its_neighbours(here):
    """A name in a sound file is found beside a faulty one; a name in the faulty one, and --all, tell its faults."""
    (here.root / "own/bad.yaml").write_text("exercises:\n  d: {inject: x()}\n", encoding="utf-8")
    assert picked(here, "a") == ["own/one.yaml::a"]
    for arguments in ({"selectors": ("d",)}, {"selectors": (), "all_": True}, {"selectors": ("bad.yaml",)}):
        with pytest.raises(InvalidFile, match=r"own/bad.yaml:2:3: error: d: the key 'expect' is missing"):
            picked(here, *arguments.pop("selectors"), **arguments)
    with pytest.raises(NothingSelected):
        picked(here, "zzz")


def test_one_name_in_two_files_must_be_chosen(here):
    """A name that one folder has twice is never chosen by chance."""
    (here.root / "own/again.yaml").write_text(exercise("a"), encoding="utf-8")
    with pytest.raises(Usage, match=r"the name 'a' stands in 2 files: write own/again.yaml::a or own/one.yaml::a"):
        picked(here, "a")
    assert picked(here, "again.yaml::a") == ["own/again.yaml::a"]


def test_problems_of_an_exercise_are_placed_in_its_file(here):
    """A place inside the text of an exercise is a place of the file; what the profile gave is shown at the name."""
    [selected] = select(["own/one.yaml::b"], (), False, here, None)
    inside = selected.problem(("inject", 0), "wrong", 2, 1, None)
    assert (inside.line, inside.col, inside.length, inside.where) == (3, 17, 1, "b.inject")
    whole = selected.problem(("expect",), "wrong", 0, 0, None)
    assert (whole.line, whole.col, whole.length) == (3, 30, 1)
    given = selected.problem(("steady_state",), "wrong", 3, 2, "cure")
    assert (given.line, given.col, given.where, given.hint) == (3, 3, "b.steady_state", "cure")


SEED = """exercises:
  invariant_breach:
    inject: engine.swap_sequence(delta_k_ratio=1.5e-9, duration='2m')
    expect: action=='block_release' && alert.to=='DEC/PM'
  latency_budget:
    inject: apm.loadtest(rps=N*1.2, duration='10m')
    expect: action=='rollback' && error_budget_burn<1
  resolution_sla:
    inject: events.delay('resolution_finished', hours=25)
    expect: action=='freeze' && notify=='PM/BC'
  cdc_lag:
    inject: cdc.delay(p95='+180s', window='10m')
    expect: action=='degrade+rollback' && ticket.owner=='DATA'
  schema_drift:
    inject: registry.bump_version(incompatible=true)
    expect: action=='block_deploy' && pipeline.status=='halted'
  api_contract:
    inject: int.break_contract('mbp.v1')
    expect: action=='rollback' && release.status=='reverted'
  web_cwv_regression:
    inject: fe.inp_regress(p75='+80ms', window='24h')
    expect: action=='rollback_fe' && cwv.score>=baseline
"""


def test_the_seed_stands_unchanged():
    """The seven exercises of the S2 seed are in scenarios/s2.yaml byte for byte, below comments, and are valid."""
    file = Path(__file__).parents[2] / "scenarios" / "s2.yaml"
    text = file.read_bytes()
    start = text.index(b"exercises:")
    assert text[start:] == SEED.encode()
    assert all(line.startswith(b"#") for line in text[:start].splitlines())
    assert list(load_scenario(file).exercises) == (
        ["invariant_breach", "latency_budget", "resolution_sla", "cdc_lag", "schema_drift", "api_contract",
         "web_cwv_regression"]
    )  # fmt: skip
