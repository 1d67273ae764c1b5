"""The command line as a whole: what it imports, how it ends, and that its schemas are those of the models."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from sim.catalogue import catalogue
from sim.cli import cli
from sim.loading import load_scenario
from sim.rooms import modules
from sim.schemas import KINDS, committed, generate

SLOW = (
    "docker",
    "locust",
    "requests",
    "fastapi",
    "pydantic",
    "aiohttp",
    "rich",
    "yaml",
    "importlib.metadata",
    "asyncio",
)


def test_help_imports_no_verb_and_no_tool():
    """`sim --help` pulls in click and nothing that costs."""
    code = (
        "import sys\nfrom sim.cli import cli\n"
        "try:\n    cli(['--help'], prog_name='sim')\nexcept SystemExit:\n    pass\n"
        f"print('LOADED', [name for name in {SLOW!r} if name in sys.modules])\n"
        "print('VERBS', [name for name in sys.modules if name.startswith('sim.cli.')])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines()[-2:] == ["LOADED []", "VERBS []"]


def test_every_verb_can_be_used():
    """Each file of sim/cli has a command of its own name, with a help of its own."""
    for name in modules("sim.cli"):
        verb = name.replace("_", "-")
        command = cli.get_command(None, verb)
        assert command is not None
        assert (command.name, bool(command.help)) == (verb, True)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_committed_schemas_are_those_of_the_models(kind: str):
    """A model that changed needs: sim schema --kind KIND --fresh > sim/schemas/KIND.schema.json."""
    assert committed(kind) == generate(kind)


def test_the_schema_knows_what_may_be_written():
    """Durations as text, one fault as a bare string, unknown keys refused."""
    schema = json.loads(committed("exercise"))
    exercise = schema["$defs"]["Exercise"]
    assert exercise["additionalProperties"] is False
    assert exercise["required"] == ["inject", "expect"]
    text, call = {"type": "string"}, {"$ref": "#/$defs/Call"}
    assert exercise["properties"]["inject"]["anyOf"] == (
        [{"anyOf": [text, call]}, {"items": {"anyOf": [text, call]}, "type": "array", "minItems": 1}]
    )
    effect = schema["$defs"]["Within"]["properties"]["effect"]["anyOf"][0]
    assert [branch["type"] for branch in effect["anyOf"]] == ["string", "number"]


def test_the_seed_says_which_injectors_are_not_there(tmp_path):
    """`sim check scenarios/s2.yaml` names each missing injector at its place, and finds nothing wrong with the form."""
    root = Path(__file__).parents[2]
    profile = tmp_path / "bare.yaml"
    profile.write_text("target: bare\nenvironment: e\n", encoding="utf-8")
    code = "from sim.cli import main; main()"
    argv = [sys.executable, "-c", code, "check", "scenarios/s2.yaml", "--target", str(profile)]
    done = subprocess.run(argv, cwd=root, capture_output=True, text=True, timeout=60)
    scenario = load_scenario(root / "scenarios" / "s2.yaml")
    expected = []
    for name, exercise in scenario.exercises.items():
        injector = str(exercise.inject[0]).partition("(")[0]
        if injector not in catalogue().injectors:
            mark = scenario.document.mark(("exercises", name, "inject"))
            place = f"scenarios/s2.yaml:{mark.line}:{mark.col}"
            expected.append(f"{place}: error: {name}.inject: unknown injector {injector!r}")
    assert [line for line in done.stdout.splitlines() if "unknown injector" in line] == expected
    assert done.returncode == 3
