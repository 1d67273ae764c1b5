"""Who may import whom, read from the source (also inside functions), and what `sim --help` must not cost."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
OURS = frozenset({"sim", "injectors", "expectations", "reports", "mbp", "tests", "bench"})

#: package → which of ours it may import. What is not listed for it is forbidden.
MAY = {
    "sim": {"sim"},
    "injectors": {"sim", "injectors"},
    "expectations": {"sim", "expectations"},
    "reports": {"sim", "reports"},
    "mbp": {"mbp"},
}

#: The judge is pure: it sees no clock, no task, no socket, no file.
JUDGE_NEVER = frozenset(
    {"aiohttp", "asyncio", "datetime", "os", "pathlib", "random", "requests", "secrets", "socket", "subprocess"}
    | {"threading", "time"}
)

#: What `sim --help` must not import: each costs more than the whole of it may.
HEAVY = frozenset(
    {"aiohttp", "asyncio", "docker", "fastapi", "gevent", "locust", "pandas", "prometheus_api_client", "psutil"}
    | {"pydantic", "requests", "rich", "uvicorn", "yaml"}
)


def imports(source: str, module: str) -> Iterator[tuple[int, str]]:
    """Yield (line, imported module) for every import of a module, wherever it stands, relative ones resolved.

    `module` is its dotted name; a package's own name ends with ``.__init__``. ``importlib.import_module("literal")``
    and ``__import__("literal")`` count too.
    """
    package = module.rpartition(".")[0].split(".")
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, each.name) for each in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            stem = ".".join([*base, *([node.module] if node.module else [])])
            yield node.lineno, stem
            yield from ((node.lineno, f"{stem}.{each.name}") for each in node.names)
        elif isinstance(node, ast.Call) and node.args and _imports_by_name(node.func):
            first = node.args[0]
            if isinstance(first, ast.Constant) and isinstance(first.value, str):
                yield node.lineno, first.value


def _imports_by_name(function: ast.expr) -> bool:
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    return name in ("import_module", "__import__")


def modules(package: str) -> Iterator[tuple[str, Path]]:
    """Yield the dotted name and the file of every module of a package."""
    for path in sorted((ROOT / package).rglob("*.py")):
        yield ".".join(path.relative_to(ROOT).with_suffix("").parts), path


def crossings(package: str, module: str, source: str) -> list[str]:
    """Return the imports of one module that its package may not make."""
    return sorted(
        {
            f"{module}:{line} imports {imported.partition('.')[0]}"
            for line, imported in imports(source, module)
            if (head := imported.partition(".")[0]) in OURS and head not in MAY[package]
        }
    )


@pytest.mark.parametrize("package", MAY)
def test_imports_go_one_way(package):
    """Injectors, expectations and reports import the kernel, the kernel none of them, and nobody the target."""
    found = list(modules(package))
    assert found, f"no module of {package} was found"
    assert [x for module, path in found for x in crossings(package, module, path.read_text(encoding="utf-8"))] == []


@pytest.mark.parametrize(
    ("package", "source", "wrong"),
    [
        ("sim", "import injectors.cdc.delay", ["sim.x:1 imports injectors"]),
        ("sim", "def f():\n    from reports import json", ["sim.x:2 imports reports"]),
        ("sim", "import importlib\nimportlib.import_module('expectations')", ["sim.x:2 imports expectations"]),
        ("sim", "__import__('mbp.engine')", ["sim.x:1 imports mbp"]),
        ("sim", "from . import run\nfrom .judge import judge\nimport json", []),
        ("reports", "from sim.report import Report\nfrom reports._view import View", []),
        ("reports", "from injectors import x", ["reports.x:1 imports injectors"]),
        ("expectations", "import reports", ["expectations.x:1 imports reports"]),
        ("mbp", "import sim", ["mbp.x:1 imports sim"]),
        ("injectors", "from mbp import engine", ["injectors.x:1 imports mbp"]),
    ],
)
def test_a_forbidden_import_is_found(package, source, wrong):
    """The check itself can fail, wherever the import stands and however it is spelled."""
    assert crossings(package, f"{package}.x", source) == wrong


def test_relative_imports_are_resolved():
    """A relative import counts as what it stands for, from a module and from a package."""
    source = "from . import a\nfrom .. import b\nfrom ..c import d"
    assert [name for _, name in imports(source, "p.q.r")] == ["p.q", "p.q.a", "p", "p.b", "p.c", "p.c.d"]
    assert [name for _, name in imports("from . import a", "p.q.__init__")] == ["p.q", "p.q.a"]


def test_the_judge_sees_no_clock_no_task_and_no_socket():
    """A verdict depends on the record alone, so the judge imports nothing that could tell it anything else."""
    found = [
        f"{module}:{line} imports {imported}"
        for module, path in modules("sim")
        if module.startswith(("sim.judge.", "sim.expression."))
        for line, imported in imports(path.read_text(encoding="utf-8"), module)
        if imported.partition(".")[0] in JUDGE_NEVER
    ]
    assert found == []


def imported_by(*command: str) -> set[str]:
    """Return the top-level modules that a Python command imports; it must succeed."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "NO_COLOR": "1"}
    environment.pop("COVERAGE_PROCESS_START", None)
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *command],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    lines = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    return {line.rpartition("|")[2].strip().partition(".")[0] for line in lines}


def test_help_imports_no_tool():
    """`sim --help` stays within five times an empty Python: nothing heavy is imported before a verb needs it."""
    idle = imported_by("-c", "pass")
    assert imported_by("-m", "sim.cli", "--help") & HEAVY - idle == set()


def test_heavy_imports_would_be_seen():
    """The measuring itself works: an import of one of them is found."""
    assert "asyncio" in imported_by("-c", "import asyncio") & HEAVY


def test_reports_bring_no_client():
    """A report reads a folder: it needs no HTTP client, no server and no event loop."""
    command = "import reports.terminal, reports.json, reports.junit"
    heavy = HEAVY - {"pydantic", "asyncio", "yaml"}  # a plan is a pydantic model
    assert imported_by("-c", command) & heavy == set()
