"""House style as a test: sizes, banned words, docstrings. The lists of exceptions may only shrink."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("sim", "injectors", "expectations", "reports", "mbp")
MAX_FUNCTION, MAX_MODULE = 60, 400

#: Modules that may be longer than MAX_MODULE: (most lines it may have, why). Shorten one and its entry must go.
LONG_MODULES: dict[str, tuple[int, str]] = {}

#: Functions that may be longer than MAX_FUNCTION, as file::name: (most lines, why).
LONG_FUNCTIONS: dict[str, tuple[int, str]] = {}

#: A name that is banned → (what to use instead, the files where it is right). As the default of an argument it is
#: right anywhere: that is how a clock is given.
BANNED: dict[str, tuple[str, tuple[str, ...]]] = {
    "time.time": (
        "sim.clock, or a clock given as an argument",
        ("sim/clock.py", "sim/stack/supervisor.py", "mbp/_edges.py", "mbp/*/__main__.py"),
    ),
    "datetime.datetime.now": ("a wall clock given as an argument", ("mbp/_edges.py", "mbp/*/__main__.py")),
    "datetime.datetime.utcnow": ("datetime.fromtimestamp(wall, UTC)", ()),
    "datetime.datetime.today": ("a wall clock given as an argument", ()),
    "datetime.date.today": ("a wall clock given as an argument", ()),
    "eval": ("sim.expression", ()),
    "exec": ("data instead of code", ()),
    "os.system": ("subprocess.run with a list", ()),
    "os.popen": ("subprocess.run with a list", ()),
    "pickle.loads": ("JSON", ()),
    "pickle.load": ("JSON", ()),
    "yaml.unsafe_load": ("sim.yamlfile", ()),
    "yaml.full_load": ("sim.yamlfile", ()),
}

#: Where the kernel may print: the command line, and what is a process of its own, whose output is the stack's log.
PRINTS = ("sim/cli/*", "sim/stack/supervisor.py", "sim/stack/children.py", "sim/stack/compose.py")

#: Words that have no place in a file that is kept. Split, so that this file does not hold them.
UNFINISHED = tuple(first + last for first, last in (("TO", "DO"), ("FIX", "ME"), ("XX", "X"), ("HA", "CK")))

#: Places that belong to one machine or one network, and must not be written down.
MACHINE = re.compile(r"(?<![\w.$}])/(?:root|home|work|Users)/\w|[A-Z]:\\Users\\")
REGISTRIES = re.compile(
    r"\b(?:py"
    + r"pi\.org|pythonhosted\.org|registry\.npm"
    + r"js\.org|proxy\.golang\.org|crates\.io|deb\.debian\.org)\b"
)

TEXT = {".py", ".md", ".toml", ".yaml", ".yml", ".sh", ".json", ".jsonl", ".txt", ".lock", ".cfg", ".html", ".mk", ""}
SKIP = {".git", ".venv", ".sim", "runs", "dist", "build", "__pycache__"}


def modules(*folders: str) -> list[Path]:
    """Return every Python file of these folders of the project."""
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def files() -> Iterator[Path]:
    """Yield every text file of the project that is kept."""
    for path in sorted(ROOT.rglob("*")):
        parts = path.relative_to(ROOT).parts
        hidden = any(part in SKIP or part.endswith(("_cache", ".egg-info")) for part in parts)
        hidden |= any(part.startswith((".coverage", ".hypothesis")) for part in parts)
        if not hidden and path.suffix in TEXT and path.is_file() and not path.is_symlink():
            yield path


def name(path: Path) -> str:
    """Return a path as the lists above spell it."""
    return path.relative_to(ROOT).as_posix()


def tree(path: Path) -> ast.Module:
    """Return the syntax tree of a file."""
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def functions(node: ast.AST, prefix: str = "") -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    """Yield every function below `node` with its dotted name."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield prefix + child.name, child
            yield from functions(child, f"{prefix}{child.name}.")
        else:
            yield from functions(child, f"{prefix}{child.name}." if isinstance(child, ast.ClassDef) else prefix)


def length(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Return how many lines a function has, its decorators not counted."""
    return (node.end_lineno or node.lineno) - node.lineno + 1


# -- sizes -------------------------------------------------------------------------------------------------------


def too_long(found: dict[str, int], limit: int, exceptions: dict[str, tuple[int, str]]) -> list[str]:
    """Return what is longer than it may be, and every exception that is no longer needed."""
    wrong = [f"{key} has {lines} lines, may have {cap}" for key, lines in found.items()
             if lines > (cap := exceptions.get(key, (limit, ""))[0])]  # fmt: skip
    gone = [f"{key} needs its exception no more: remove it" for key in exceptions if found.get(key, 0) <= limit]
    return wrong + gone


def test_no_module_is_too_long():
    """A module has at most 400 lines; a listed one no more than its own cap, and only while it needs it."""
    found = {name(path): len(path.read_text(encoding="utf-8").splitlines()) for path in modules(*PACKAGES)}
    assert too_long(found, MAX_MODULE, LONG_MODULES) == []


def test_no_function_is_too_long():
    """A function has at most 60 lines; a listed one no more than its own cap, and only while it needs it."""
    found = {f"{name(p)}::{key}": length(node) for p in modules(*PACKAGES) for key, node in functions(tree(p))}
    assert found, "no function was found: the test looks in the wrong place"
    assert too_long(found, MAX_FUNCTION, LONG_FUNCTIONS) == []


def test_an_exception_that_is_not_needed_is_told():
    """The lists of exceptions shrink by themselves: what fits the limit again may not stay listed."""
    exceptions = {"a": (90, "why"), "b": (90, "why"), "gone": (90, "why")}
    assert too_long({"a": 95, "b": 60, "c": 61}, 60, exceptions) == [
        "a has 95 lines, may have 90",
        "c has 61 lines, may have 60",
        "b needs its exception no more: remove it",
        "gone needs its exception no more: remove it",
    ]


# -- banned words ------------------------------------------------------------------------------------------------


def banned(path: str, module: ast.Module) -> Iterator[str]:
    """Yield what a file calls, catches or prints that it should not, each with what to do instead."""
    origin = _origins(module)
    given = _given(module)
    for node in ast.walk(module):
        place = f"{path}:{getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.Attribute | ast.Name) and id(node) not in given:
            instead, right = BANNED.get(spelled := _spelled(node, origin), ("", ("*",)))
            if not any(fnmatch(path, pattern) for pattern in right):
                yield f"{place}: {spelled}: use {instead}"
        elif isinstance(node, ast.Call):
            if any(word.arg == "shell" for word in node.keywords):
                yield f"{place}: shell=: pass a list of arguments"
            quiet = path.startswith("sim/") and not any(fnmatch(path, pattern) for pattern in PRINTS)
            if quiet and isinstance(node.func, ast.Name) and node.func.id == "print":
                yield f"{place}: print in the kernel: return it, or report it through a callable"
        elif isinstance(node, ast.ExceptHandler):
            if node.type is None:
                yield f"{place}: bare except: name what is caught"
            if all(isinstance(each, ast.Pass) or _is_ellipsis(each) for each in node.body):
                yield f"{place}: a caught error that leaves no trace: record it, or contextlib.suppress"


def _given(module: ast.Module) -> set[int]:
    """Return the nodes that are defaults of arguments."""
    signatures = [node for node in ast.walk(module) if isinstance(node, ast.arguments)]
    return {id(node) for each in signatures for node in (*each.defaults, *each.kw_defaults) if node is not None}


def _origins(module: ast.Module) -> dict[str, str]:
    """Return what each imported name stands for: ``from time import time as t`` gives t → time.time."""
    found: dict[str, str] = {}
    for node in ast.walk(module):
        if isinstance(node, ast.Import):
            found.update({each.asname or each.name: each.name for each in node.names})
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.update({each.asname or each.name: f"{node.module}.{each.name}" for each in node.names})
    return found


def _spelled(node: ast.expr, origin: dict[str, str]) -> str:
    if isinstance(node, ast.Name):
        return origin.get(node.id, node.id)
    if isinstance(node, ast.Attribute):
        return f"{_spelled(node.value, origin)}.{node.attr}"
    return "?"


def _is_ellipsis(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and node.value.value is ...


def test_banned_words_are_not_used():
    """No wall clock in pure code, no swallowed error, no code from data, no print in the kernel."""
    assert [word for path in modules(*PACKAGES) for word in banned(name(path), tree(path))] == []


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("import time\ntime.time()", "time.time"),
        ("from time import time as t\nclock = t", "time.time"),
        ("import time\ndef f(at=time.time()): ...", "time.time"),
        ("import datetime\ndatetime.datetime.now()", "datetime.now"),
        ("from datetime import datetime\ndatetime.now()", "datetime.now"),
        ("try:\n    f()\nexcept ValueError:\n    pass", "leaves no trace"),
        ("try:\n    f()\nexcept:\n    raise", "bare except"),
        ("eval('1')", "eval"),
        ("import subprocess\nsubprocess.run('ls', shell=True)", "shell="),
        ("import os\nos.system('ls')", "os.system"),
        ("print('x')", "print in the kernel"),
    ],
)
def test_each_banned_word_is_found(source, told):
    """The check itself can fail: one example of every banned thing."""
    (found,) = banned("sim/example.py", ast.parse(source))
    assert told in found


@pytest.mark.parametrize(
    "source",
    [
        "import time\ntime.monotonic()",
        "from datetime import UTC, datetime\ndatetime.fromtimestamp(1, UTC)",
        "import time\ndef f(wall=time.time): ...",
        "match 1:\n    case _:\n        pass",
        "try:\n    f()\nexcept ValueError as error:\n    g(error)",
        "def evaluate(): ...\nevaluate()",
    ],
)
def test_what_is_right_is_not_banned(source):
    """The check does not cry wolf."""
    assert list(banned("sim/example.py", ast.parse(source))) == []


def test_nothing_is_left_unfinished():
    """No file carries a note to finish it later: an open point is an issue, not a comment."""
    words = re.compile(rf"\b(?:{'|'.join(UNFINISHED)})\b")
    found = [f"{name(p)}: {m[0]}" for p in files() if p.suffix != ".lock" for m in words.finditer(_text(p))]
    assert found == []


def test_nothing_names_a_machine_or_a_registry():
    """The tree holds for every machine: no absolute path of one, no address of a package registry."""
    found = [
        f"{name(path)}: {match[0]}"
        for path in files()
        for pattern in (MACHINE, REGISTRIES)
        for match in pattern.finditer(_text(path))
    ]
    assert found == []


@pytest.mark.parametrize(
    ("text", "hit"),
    [
        ("cd /ro" + "ot/x", True),
        ("'/ho" + "me/me/a'", True),
        ("https://py" + "pi.org/simple", True),
        ("C:\\Us" + "ers\\me", True),
        ("tests/work/x", False),
        ("$X/home/a", False),
        ("https://prometheus.io/download/", False),
    ],
)
def test_machines_and_registries_are_recognised(text, hit):
    """The patterns catch what they must, and leave relative paths alone."""
    assert bool(MACHINE.search(text) or REGISTRIES.search(text)) is hit


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")


# -- docstrings --------------------------------------------------------------------------------------------------


def undocumented(path: str, node: ast.AST, prefix: str = "") -> Iterator[str]:
    """Yield every public thing below `node` whose docstring does not begin with a sentence.

    A protocol's or an overload's stub (its body is ``...``) speaks by its signature.
    """
    if isinstance(node, ast.Module) and node.body and not _sentence(ast.get_docstring(node)):
        yield f"{path}: the module"
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef) and not child.name.startswith("_"):
            if not _sentence(ast.get_docstring(child)):
                yield f"{path}:{child.lineno}: {prefix}{child.name}"
            yield from undocumented(path, child, f"{prefix}{child.name}.")
        elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef) and not child.name.startswith("_"):
            if not all(_is_ellipsis(each) for each in child.body) and not _sentence(ast.get_docstring(child)):
                yield f"{path}:{child.lineno}: {prefix}{child.name}"
        elif isinstance(child, ast.If | ast.Try):
            yield from undocumented(path, child, prefix)


def _sentence(text: str | None) -> bool:
    """Whether a docstring's first paragraph is a sentence, or leads to what stands below it."""
    first = (text or "").strip().partition("\n\n")[0].strip()
    return len(first.split()) >= 2 and first.endswith((".", ":", "!", "?", ".)"))


def test_public_things_have_a_docstring():
    """Every public thing of the packages says in a full sentence what it means."""
    assert [each for path in modules(*PACKAGES) for each in undocumented(name(path), tree(path))] == []


def test_every_test_says_what_it_shows():
    """Every test function has a docstring that states the behaviour."""
    found = [
        f"{name(path)}:{node.lineno}: {key}"
        for path in modules("tests")
        if path.name.startswith("test_")
        for key, node in functions(tree(path))
        if node.name.startswith("test_") and not _sentence(ast.get_docstring(node))
    ]
    assert found == []


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("x = 1", ["a.py: the module"]),
        ('"""A module."""\nclass Thing:\n    """Thing"""', ["a.py:2: Thing"]),
        ('"""A module."""\ndef f(x): return x', ["a.py:2: f"]),
        ('"""A module."""\nclass A:\n    """It is one."""\n    def go(self): return 1', ["a.py:4: A.go"]),
        ('"""A module."""\nclass A:\n    """It is one."""\n    def go(self): ...\n    def _no(self): return 1', []),
        ("", []),
    ],
)
def test_a_missing_docstring_is_found(source, told):
    """The check itself can fail, and spares private names, stubs and empty modules."""
    assert list(undocumented("a.py", ast.parse(source))) == told
