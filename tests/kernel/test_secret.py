"""Secrets: named by reference, and never written in any spelling, by a whole run either."""

from __future__ import annotations

import base64
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sim.catalogue import catalogue
from sim.cli._progress import Progress
from sim.injector import InjectionError, Injector, Probe
from sim.observation import CannotLook, Observation
from sim.report import finished
from sim.secret import BLACKED_OUT, SecretMissing, Secrets
from tests.kernel.scripted import PROFILE, World, bent, play

#: Spelled differently by nearly everybody: quotes, a slash, signs of URLs and of HTML, a blank, two bytes a letter.
CANARY = 'S3cr/et"+&<é x>'


def knows(value: str = CANARY) -> Secrets:
    """Return secrets that know one value."""
    secrets = Secrets({"CANARY": value})
    assert secrets.resolve("env:CANARY") == value.rstrip("\r\n")
    return secrets


def lowered(text: str) -> str:
    """Return percent signs with small letters, as some servers write them."""
    return "".join(part.lower() if number % 3 == 1 else part for number, part in enumerate(_cut(text)))


def _cut(text: str) -> list[str]:
    parts, rest = [], text
    while "%" in rest:
        head, _, rest = rest.partition("%")
        parts += [head, "%" + rest[:2], ""]
        rest = rest[2:]
    return [*parts, rest]


SPELLINGS = {
    "as it is": CANARY,
    "JSON": json.dumps(CANARY)[1:-1],
    "JSON in UTF-8": json.dumps(CANARY, ensure_ascii=False)[1:-1],
    "JSON of PHP": json.dumps(CANARY)[1:-1].replace("/", "\\/"),
    "JSON of Go": 'S3cr/et\\"+\\u0026\\u003cé x\\u003e',
    "Python": repr(CANARY)[1:-1],
    "URL": quote(CANARY, safe=""),
    "URL path": quote(CANARY),
    "URL, small": lowered(quote(CANARY, safe="")),
    "form": quote_plus(CANARY),
    "HTML": "S3cr/et&quot;+&amp;&lt;é x&gt;",
    "base64": base64.b64encode(CANARY.encode()).decode(),
    "base64 of URLs": base64.urlsafe_b64encode(CANARY.encode()).decode().rstrip("="),
}


@pytest.mark.parametrize("spelling", SPELLINGS.values(), ids=SPELLINGS.keys())
def test_every_spelling_is_blacked_out(spelling: str) -> None:
    """Whoever echoes a secret writes it in one of these ways."""
    assert knows().redact(f"before {spelling} after").rstrip("=") in (
        f"before {BLACKED_OUT} after",
        f"before {BLACKED_OUT}= after",
        f"before {BLACKED_OUT}== after",
    )


def test_an_unknown_value_is_left_alone() -> None:
    """Nothing is known yet: nothing is hidden."""
    assert Secrets({}).redact(CANARY) == CANARY


def test_of_two_that_begin_alike_the_longer_is_hidden_whole() -> None:
    """No rest of the longer one stays behind the shorter."""
    secrets = knows("abcdef")
    secrets.know("abcdefghi")
    assert secrets.redact("abcdefghi abcdef") == f"{BLACKED_OUT} {BLACKED_OUT}"


def test_a_secret_that_is_part_of_the_black_bar_does_not_multiply_it() -> None:
    """Redacting is done in one pass."""
    secrets = knows("red")
    secrets.know("act")
    assert secrets.redact("a red act") == f"a {BLACKED_OUT} {BLACKED_OUT}"


KEY = "-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBg\nkqhkiG9w0BAQEF\nab=\n-----END PRIVATE KEY-----"


@pytest.mark.parametrize("shown", [KEY, KEY.replace("\n", "\\n"), " ".join(KEY.split()), "at kqhkiG9w0BAQEF: bad"])
def test_a_key_of_several_lines_is_hidden_whole_and_by_its_lines(tmp_path: Path, shown: str) -> None:
    """Shown on one line, escaped, or a line of it alone."""
    (tmp_path / "key").write_text(KEY + "\n")
    secrets = Secrets({})
    assert secrets.resolve(f"file:{tmp_path / 'key'}") == KEY
    assert "kqhkiG9w0BAQEF" not in secrets.redact(shown)


@settings(max_examples=80, deadline=None)
@given(st.text(min_size=6, max_size=20).filter(lambda text: len(text.strip()) > 5), st.text(max_size=10))
@example("000000\n", "")
def test_no_value_survives(value: str, around: str) -> None:
    """Whatever the value and whatever stands around it."""
    secrets = knows(value)
    assert value.rstrip("\r\n") not in secrets.redact(f"{around}{value}{around}").replace(BLACKED_OUT, "\0")


MISSING = [
    ("env:NOT_SET", SecretMissing, "environment variable NOT_SET is not set"),
    ("env:EMPTY", SecretMissing, "the secret behind 'env:EMPTY' is empty"),
    ("file:/nowhere/at/all", SecretMissing, "cannot read secret file /nowhere/at/all: No such file"),
    ("hunter2", ValueError, "not a secret reference"),
]


@pytest.mark.parametrize(("reference", "kind", "why"), MISSING)
def test_a_reference_to_nothing_says_what_is_missing(reference: str, kind: type[Exception], why: str) -> None:
    """The message names the variable or the file, never a value."""
    with pytest.raises(kind, match=why) as raised:
        Secrets({"EMPTY": ""}).resolve(reference)
    assert "hunter2:" not in str(raised.value)


def test_a_file_that_is_no_text_is_missing(tmp_path: Path) -> None:
    """A binary file is named, and not shown."""
    (tmp_path / "bin").write_bytes(b"\xff\xfe\x00secret")
    with pytest.raises(SecretMissing, match=r"bin is not text in UTF-8$"):
        Secrets({}).resolve(f"file:{tmp_path / 'bin'}")


# -- over a whole run --------------------------------------------------------------------------------------------


def chatty(world: World, name: str) -> None:
    """Every third look fails, and tells the secret in all spellings."""
    world.calls.append(f"look {name}")
    if world.calls.count(f"look {name}") % 4 == 3:
        raise CannotLook("401 for " + " ".join(SPELLINGS.values()))


def echoes(world: World, name: str) -> list[Observation]:
    """A foreign message that carries the secret in keys and values."""
    if name != "inbox" or world.on is None or "echo" in world.calls:
        return []
    world.calls.append("echo")
    about = {
        "name": CANARY, "labels": {CANARY: CANARY, "alertname": CANARY}, "fingerprint": None,
        "starts_at": None, "status": "firing",
    }  # fmt: skip
    data = {"id": CANARY, "channel": "slack", "address": CANARY, "status": "firing", "title": CANARY, "alerts": [about]}
    return [Observation("message", data)]


def telling(world: World, injector: Injector) -> Injector:
    """Its probes carry the secret as evidence, and its first withdrawal fails with it."""

    async def gone(site: Any, receipt: Any) -> Probe:
        return Probe(world.off is not None, {"answer": CANARY, CANARY: [CANARY]})

    async def effective(site: Any, receipt: Any) -> Probe:
        return Probe(world.passed(world.since(world.on, 0.5)), {"answer": CANARY})

    async def withdraw(site: Any, receipt: Any) -> None:
        world.withdrawals += 1
        if world.withdrawals == 1:
            raise InjectionError(f"500: {CANARY}")
        world.off = world.off or world.now()

    return replace(injector, gone=gone, effective=effective, withdraw=withdraw)


def falling(world: World, injector: Injector) -> Injector:
    """A plugin's own bug that shows the secret."""

    async def effective(site: Any, receipt: Any) -> Probe:
        raise KeyError(CANARY)

    return replace(injector, effective=effective)


def sticking(world: World, injector: Injector) -> Injector:
    """A fault that stays, with the secret in its evidence."""

    async def gone(site: Any, receipt: Any) -> Probe:
        return Probe(False, {"answer": CANARY})

    return replace(injector, gone=gone)


RUNS = [(telling, "passed"), (falling, "error"), (sticking, "unsafe")]


@pytest.mark.parametrize(("odd", "outcome"), RUNS, ids=[row[0].__name__ for row in RUNS])
def test_no_spelling_of_a_secret_is_left_by_a_whole_run(
    tmp_path: Path, monkeypatch: Any, capfd: pytest.CaptureFixture[str], odd: Any, outcome: str
) -> None:
    """Run folder, reports, standard output and error of a run whose every part echoes the secret: not once."""
    observers = {name: {**spec, "auth": "env:CANARY"} for name, spec in PROFILE["observers"].items()}
    doors = {"door": {"url": "http://scripted", "auth": "env:CANARY"}}
    secrets = Secrets({"CANARY": CANARY})
    progress = Progress(live=False)
    folder = tmp_path / "run"
    folder.mkdir()
    judgement, _ = play(
        folder, monkeypatch, bent(trouble=chatty, more=echoes, odd=odd, tell=1.0), secrets=secrets,
        on_event=progress.event, on_judge=progress.judging,
        profile={"observers": observers, "doors": doors, "hooks": _also_anybody()},
    )  # fmt: skip
    assert str(judgement.outcome) == outcome
    for name in ("terminal", "json", "junit"):
        text = catalogue().report(name).render(finished(folder))
        (folder / name).write_text(text, encoding="utf-8")
        sys.stdout.write(text)
    out, err = capfd.readouterr()
    left = {path.name: path.read_text(encoding="utf-8") for path in folder.iterdir()}
    assert {"log.jsonl", "undo.jsonl", "plan.json", "verdicts.json", "json"} <= set(left)
    assert BLACKED_OUT in left["log.jsonl"] and err
    for place, text in {**left, "stdout": out, "stderr": err}.items():
        assert [name for name, spelling in SPELLINGS.items() if spelling in text] == [], place


def _also_anybody() -> dict[str, Any]:
    hook = {**PROFILE["hooks"]["hook"], "also": ["(nobody in owners)"]}
    return {**PROFILE["hooks"], "hook": hook}


def test_a_receipt_that_carries_a_secret_is_refused_before_anything_is_applied(
    tmp_path: Path, monkeypatch: Any
) -> None:
    """The journal must keep the receipt as it is, so a secret must not be in it: inconclusive, nothing applied."""

    def odd(world: World, injector: Injector) -> Injector:
        async def prepare(site: Any, params: Any) -> Any:
            site.secrets.resolve("env:CANARY")
            prepared = await injector.prepare(site, params)
            return replace(prepared, receipt={"token": CANARY})

        return replace(injector, prepare=prepare)

    judgement, world = play(tmp_path, monkeypatch, bent(odd=odd), secrets=Secrets({"CANARY": CANARY}))
    assert (str(judgement.outcome), "apply" in world.calls) == ("inconclusive", False)
    why = "effect: injection failed: the receipt of break carries a secret: give a reference"
    assert judgement.reasons == (why,)
    assert CANARY not in (tmp_path / "undo.jsonl").read_text()
