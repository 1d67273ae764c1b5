"""Exercise + target + catalogue → plan: every problem at once, each at its place, and nothing left to guess."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from sim.exercise import Exercise
from sim.plan import Plan
from sim.resolve import Problem, Unresolvable, resolve
from sim.target import Target
from tests.kernel.scripted import PROFILE, Names, Script, World, names, planned

HOOK = PROFILE["hooks"]["hook"]


def plan(profile: dict[str, Any] | None = None, known: Names | None = None, **written: Any) -> Plan:
    """Return the plan of an exercise, with the good one's keys where none are given."""
    exercise = Exercise.model_validate({"inject": "break(dose=1)", "expect": "action=='block'", **written})
    target = Target.model_validate({**PROFILE, **(profile or {})})
    return resolve("drill", exercise, target, known or names(World(Script())))


def problems(profile: dict[str, Any] | None = None, known: Names | None = None, **written: Any) -> tuple[Problem, ...]:
    """Return everything that is wrong with an exercise."""
    with pytest.raises(Unresolvable) as raised:
        plan(profile, known, **written)
    return raised.value.problems


def told(found: tuple[Problem, ...]) -> list[tuple[tuple[str | int, ...], str]]:
    """Return place and message of each problem."""
    return [(each.loc, each.message) for each in found]


def test_everything_wrong_is_told_at_once() -> None:
    """Five mistakes in one exercise: five problems, each with its place."""
    found = problems(
        inject=["brake(dose=1)", "break(dosis=1)", "break(dose='x')"],
        expect="action=='block' && tikket=='DATA'",
        never="action=='blok'",
        hook="hock",
    )
    places = [(each.loc, each.offset, each.length) for each in found]
    assert places == [
        (("inject", 0), 0, 5),
        (("inject", 1), 6, 7),
        (("inject", 2), 6, 8),
        (("hook",), 0, 0),
        (("expect",), 19, 6),
        (("never",), 8, 6),
    ]


INJECT = [
    ("unknown injector", "brake()", "unknown injector 'brake'", (0, 5)),
    ("unknown argument", "break(dose=1, doze=2)", "unknown argument 'doze'", (14, 6)),
    ("given twice", "break(dose=1, dose=2)", "argument dose is given twice", (14, 4)),
    ("no place for it", "break(1)", "break takes no argument in place 1", (6, 1)),
    ("wrong type", "break(dose=[1])", "dose: input should be a valid number, not [1]", (6, 8)),
    ("unknown variable", "break(dose=M)", "no variable is called 'M'", (11, 1)),
    ("no call", "break", None, None),
    ("broken", "break(", None, None),
]


@pytest.mark.parametrize(("text", "message", "place"), [row[1:] for row in INJECT], ids=[row[0] for row in INJECT])
def test_a_fault_that_cannot_be_bound(text: str, message: str | None, place: tuple[int, int] | None) -> None:
    """One problem, with the characters of the call that are meant."""
    (found,) = problems(inject=text)
    assert found.loc == ("inject", 0)
    if message is not None:
        assert (found.message, (found.offset, found.length)) == (message, place)


def test_the_cure_of_an_argument_is_what_the_injector_takes() -> None:
    """An unknown argument is told with those there are."""
    (found,) = problems(inject="break(doze=2)")
    assert found.hint == "it takes: dose, duration"


def test_positional_arguments_and_variables() -> None:
    """Values by place where the injector allows it; variables of the exercise over those of the target."""
    known = names(World(Script()))
    known = Names({"break": replace(known.injectors["break"], positional=("dose", "duration"))}, known.kinds)
    profile = {"vars": {"N": 120, "M": 2}}
    assert plan(profile, known, inject="break(N*1.5, 30)").faults[0].params == {"dose": 180.0, "duration": 30.0}
    made = plan(profile, known, inject="break(N/M, duration=M)", vars={"N": 10})
    assert (made.faults[0].params, made.variables) == ({"dose": 5.0, "duration": 2.0}, {"N": 10, "M": 2})


def test_the_object_form_of_a_fault_is_the_same_plan() -> None:
    """`{call, with}` and `call(…)` bind the same."""
    text = plan(inject="break(dose=3, duration=9)").faults[0]
    made = plan(inject={"call": "break", "with": {"dose": 3, "duration": 9}}).faults[0]
    assert made == text.model_copy(update={"text": "break"})


def test_the_object_form_tells_what_is_wrong_too() -> None:
    """Unknown argument, at the fault."""
    assert told(problems(inject={"call": "break", "with": {"x": 1}})) == [(("inject", 0), "unknown argument 'x'")]


def test_a_door_that_the_target_does_not_open() -> None:
    """The injector names its doors; the profile must have them."""
    assert told(problems({"doors": {}})) == [
        (("inject", 0), "break needs the door 'door', and target scripted has none")
    ]


def test_arguments_that_the_profiles_doors_do_not_fit() -> None:
    """The injector tells it from the profile alone: found when the files are read, not when the fault is to begin."""
    known = names(World(Script()))
    choosy = replace(known.injectors["break"], unfit=lambda params, doors: f"no dose at {doors['door'].url}")
    known = Names({"break": choosy}, known.kinds)
    assert told(problems(known=known)) == [(("inject", 0), f"no dose at {PROFILE['doors']['door']['url']}")]


@pytest.mark.parametrize(("stage", "what"), [("detect", "alerts"), ("act", "actions"), ("notify", "channels")])
def test_a_link_that_nothing_would_see(stage: str, what: str) -> None:
    """A profile without a fact for a link of the bound hook: not seen would be judged as not done."""
    facts = {
        name: fact
        for name, fact in PROFILE["facts"].items()
        if not (fact["kind"] == "event" and fact["stage"] == stage)
    }
    text = f"nothing would see the {what} of hook hook: no fact of kind event has stage {stage}"
    assert (("hook",), text) in told(problems({"facts": facts}))


def test_without_an_identity_there_is_no_plan() -> None:
    """Nobody could tell whether the live target is the one that is meant."""
    assert told(problems({"identity": None})) == [
        ((), "target scripted has no `identity:`, so its environment cannot be checked")
    ]


def test_without_steady_state_there_is_no_plan() -> None:
    """Neither the exercise nor the profile says what normal is."""
    assert [each.loc for each in problems({"steady_state": None})] == [("steady_state",)]


def test_an_observer_that_is_not_installed_is_told_where_it_is_read() -> None:
    """A missing kind matters only to who reads it."""
    known = names(World(Script()))

    class Fewer(Names):
        def observer(self, name: str) -> Any:
            if name == "inbox":
                raise LookupError("unknown observer 'inbox'")
            return known.kinds[name]

    fewer = Fewer(known.injectors, known.kinds)
    assert ((), "observers.slack: unknown observer 'inbox'") in told(problems(known=fewer))
    unbound = {"hooks": {name: {**hook, "faults": []} for name, hook in PROFILE["hooks"].items()}}
    assert "slack" not in plan(unbound, fewer).observers


def test_a_fact_that_its_observer_can_never_fill_is_refused() -> None:
    """Messages out of a rule engine: every verdict on it would be empty."""
    facts = {**PROFILE["facts"], "alert.to": {"kind": "event", "stage": "notify", "from": "hooks"}}
    assert told(problems({"facts": facts})) == [
        ((), "facts.alert.to needs message observations, and hooks (hooks) makes: execution")
    ]


def test_those_who_see_alerts_are_always_opened() -> None:
    """Also where nothing in the plan reads an alert: one of others refuses any run."""
    profile = {
        "hooks": {name: {**hook, "faults": []} for name, hook in PROFILE["hooks"].items()},
        "observers": {**PROFILE["observers"], "am": {"kind": "prom"}},
    }
    assert "am" in plan(profile, expect="gate=='blocked'").observers


# -- hold --------------------------------------------------------------------------------------------------------


def test_the_hold_is_the_longest_of_its_faults() -> None:
    """Each injector says how long it holds; without a word it is 5 minutes."""
    assert plan(inject=["break(duration=40)", "crack(duration=70)"]).hold_s == 70.0
    known = names(World(Script()))
    silent = Names({"break": replace(known.injectors["break"], duration_s=lambda _: None)}, known.kinds)
    assert plan(known=silent).hold_s == 300.0


def test_a_hold_beyond_what_the_target_allows() -> None:
    """`hold_max` of the profile, 2 h without a word."""
    assert plan({"hold_max": "40s"}, inject="break(duration=40)").hold_s == 40.0
    assert told(problems({"hold_max": "40s"}, inject="break(duration=40.5)")) == [
        (("inject",), "asks for a hold of 40.5 s; this target allows 40 s")
    ]
    assert told(problems(inject="break(duration=7201)")) == [
        (("inject",), "asks for a hold of 7201 s; this target allows 7200 s")
    ]


# -- hooks -------------------------------------------------------------------------------------------------------

OTHER = {**PROFILE["hooks"], "other": {**PROFILE["hooks"]["other"], "faults": ["break"]}}

HOOKS = [
    ("the one whose faults name the injector", {}, {}, "hook"),
    ("two of them: none", {"hooks": OTHER}, {}, None),
    ("nobody's: none", {}, {"inject": "crack()"}, None),
    ("one of several faults is enough", {}, {"inject": ["crack()", "break()"]}, "hook"),
    ("the profile's binding", {"exercises": {"drill": {"hook": "other"}}}, {"expect": "action=='undo'"}, "other"),
    ("another exercise's binding", {"exercises": {"else": {"hook": "other"}}}, {}, "hook"),
    ("the exercise's own over the binding", {"exercises": {"drill": {"hook": "other"}}}, {"hook": "hook"}, "hook"),
]


@pytest.mark.parametrize(("profile", "written", "hook"), [row[1:] for row in HOOKS], ids=[row[0] for row in HOOKS])
def test_which_hook_is_bound(profile: dict[str, Any], written: dict[str, Any], hook: str | None) -> None:
    """The exercise's key, else the profile's, else the one hook whose `faults` names its injector, else none."""
    assert plan(profile, **written).hook_name == hook


def test_the_implied_clauses_of_a_hook() -> None:
    """Effect, detect, act, one notify a channel, only, recover: each with its budget."""
    made = plan({"hooks": {"hook": {**HOOK, "channels": ["slack", "email"]}}})
    assert [(clause.id, clause.kind, clause.within_s) for clause in made.clauses] == [
        ("effect", "effect", 5.0), ("detect", "alert", 10.0), ("act", "action", 15.0),
        ("notify:slack", "message", 15.0), ("notify:email", "message", 15.0), ("only", "only", 120.0),
        ("recover", "recover", 120.0), ("expect.1", "event", 15.0),
    ]  # fmt: skip


def test_a_clause_is_as_late_as_its_latest_fact() -> None:
    """Split at the top-level && and ||; a gauge is judged at recovery."""
    made = plan(
        expect="action=='block' && gate=='blocked' && alert.to=='TEAM' && burn<1",
        never="action=='undo' || lane=='slow'",
    )
    assert [(c.id, c.kind, c.stage, c.text) for c in made.clauses if c.origin != "implied"] == [
        ("expect.1", "event", "act", "action == 'block'"),
        ("expect.2", "state", "act", "gate == 'blocked'"),
        ("expect.3", "event", "notify", "alert.to == 'TEAM'"),
        ("expect.4", "gauge", "recover", "burn < 1"),
        ("never.1", "event", "act", "action == 'undo'"),
        ("never.2", "state", "act", "lane == 'slow'"),
    ]  # fmt: skip


# -- budgets -----------------------------------------------------------------------------------------------------

DETECT = [
    ("the default", {"hooks": {"hook": {**HOOK, "within": {}}}}, {}, 60.0),
    ("the target's", {"within": {"detect": 1}, "hooks": {"hook": {**HOOK, "within": {}}}}, {}, 1.0),
    ("the hook's over the target's", {"within": {"detect": 1}}, {}, 10.0),
    ("the binding's over the hook's", {"exercises": {"drill": {"within": {"detect": "3s"}}}}, {}, 3.0),
    ("the exercise's over all", {"exercises": {"drill": {"within": {"detect": 3}}}}, {"within": {"detect": "4s"}}, 4.0),
]  # fmt: skip


@pytest.mark.parametrize(("profile", "written", "detect"), [row[1:] for row in DETECT], ids=[row[0] for row in DETECT])
def test_the_nearest_budget_counts(profile: dict[str, Any], written: dict[str, Any], detect: float) -> None:
    """Exercise over binding over hook over target over default; a part that is not given comes from the next."""
    made = plan(profile, **written)
    assert made.within.detect == detect
    assert None not in made.within.model_dump().values()


def test_conditions_come_from_the_nearest_too() -> None:
    """steady_state, stop_when and never: the exercise's, else the binding's, else the target's."""
    binding = {"steady_state": "errors<0.2", "stop_when": "errors>0.9", "never": "action=='undo'"}
    profile = {"exercises": {"drill": binding}, "stop_when": "errors>0.8"}
    made = plan(profile)
    assert (made.steady_state, made.stop_when, made.clauses[-1].text) == (
        "errors<0.2",
        "errors>0.9",
        "action == 'undo'",
    )
    made = plan(profile, steady_state="errors<0.3", stop_when="errors>0.7", never="gate=='blocked'")
    assert (made.steady_state, made.stop_when, made.clauses[-1].text) == (
        "errors<0.3",
        "errors>0.7",
        "gate == 'blocked'",
    )
    assert plan({"stop_when": "errors>0.8"}).stop_when == "errors>0.8"


def test_the_effects_of_the_profile_are_checked_too() -> None:
    """A hook that names a fact which is not there is told with its place in the profile."""
    actions = [{"name": "block", "effect": "gaet=='blocked'"}]
    (found,) = problems({"hooks": {"hook": {**HOOK, "actions": actions}}})
    assert found.message == "hooks.hook: effect of block: no fact or variable is called 'gaet'"


# -- the plan ----------------------------------------------------------------------------------------------------


def test_the_same_exercise_is_the_same_plan() -> None:
    """Resolved twice: equal, and with one digest; another dose is another digest."""
    assert plan() == plan()
    assert plan().digest() == plan().digest()
    assert plan().digest() != plan(inject="break(dose=2)").digest()
    assert plan().digest() != plan(within={"detect": 9}).digest()


ROUND = [
    {},
    {"expect": "burn<1 && score>=baseline", "never": "action=='undo'", "stop_when": "errors>0.5", "tags": ["d3"]},
    {"inject": [{"call": "break", "with": {"dose": 2}}, "crack(duration='1m')"], "hold": "full", "repeat": 3},
    {"vars": {"N": 1, "F": True, "T": "x"}, "within": {"act": "1m"}, "title": "t", "owner": "TEAM"},
]


@pytest.mark.parametrize("written", ROUND, ids=range(len(ROUND)))
def test_a_plan_survives_its_file(written: dict[str, Any]) -> None:
    """Written as JSON and read back it is the same plan with the same digest."""
    known = names(World(Script()))
    loose = replace(known.injectors["crack"], params=Loose, duration_s=lambda _: None)
    made = plan(known=Names({**known.injectors, "crack": loose}, known.kinds), **written)
    again = Plan.model_validate_json(json.dumps(made.as_json()))
    assert again == made
    assert again.digest() == made.digest()


class Loose(type(Exercise.model_validate({"inject": "a()", "expect": "b"})).__base__):  # type: ignore[misc]
    """Parameters of which some may be null while their default is not."""

    duration: str | None = None
    mode: str | None = "fast"


def test_a_parameter_that_is_null_on_purpose_stays_null() -> None:
    """The plan's file must not turn it into its default."""
    known = names(World(Script()))
    loose = replace(known.injectors["crack"], params=Loose, duration_s=lambda _: None)
    made = plan(
        known=Names({"crack": loose}, known.kinds), inject={"call": "crack", "with": {"mode": None}}, hook="hook"
    )
    again = Plan.model_validate_json(json.dumps(made.as_json()))
    assert again.faults[0].params == made.faults[0].params == {"duration": None, "mode": None}


def test_the_scripted_plan_is_what_the_other_tests_run() -> None:
    """`planned` and this file's `plan` come to the same."""
    assert planned(World(Script()), "action=='block'") == plan()
