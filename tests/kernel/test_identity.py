"""Who the live target says it is: at which place of which answer, and that two names at once are none."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from sim.restore import RestoreError, identity
from sim.secret import Secrets
from sim.target import Identity
from sim.wire import Client, Failure
from tests.cli.fake_platform import Platform, platform, series


@pytest.fixture
def fake() -> Iterator[Platform]:
    """Return a platform that asks for no token."""
    with platform() as served:
        served.token = None
        yield served


def said(fake: Platform, answer: Any, **places: str) -> tuple[str, str]:
    """Return what an answer is understood to say."""
    fake.answers["/about"] = answer
    where = Identity(url=f"{fake.url}/about", **places)
    return asyncio.run(identity(where, Secrets({})))


LIST = {"parts": [{"env": "a", "id": 2}, {"env": "a", "id": 1}, {"id": True}, "x"]}


@pytest.mark.parametrize(("answer", "places", "told"), [
    ({"environment": "e", "instance": "i"}, {}, ("e", "i")),
    ({"environment": "e"}, {}, ("e", "")),
    ({"app": {"stage": "e"}}, {"environment": "app.stage"}, ("e", "")),
    (LIST, {"environment": "parts.*.env", "instance": "parts.*.id"}, ("a", "1+2")),
    (LIST, {"environment": "parts.1.env"}, ("a", "")),
])  # fmt: skip
def test_it_is_read_at_its_place(fake: Platform, answer: Any, places: dict[str, str], told: tuple[str, str]) -> None:
    """Plain, deeper, of each of a list, of one of a list; numbers are text, true is nothing."""
    assert said(fake, answer, **places) == told


@pytest.mark.parametrize(("answer", "places", "why"), [
    ({"environment": ["e"]}, {}, "did not answer with an identity: JSON with environment and instance"),
    ({"environment": ""}, {}, "did not answer with an identity: JSON with environment and instance"),
    ([], {"environment": "a.*.b"}, "did not answer with an identity: JSON with a.*.b and instance"),
    ([{"e": "b"}, {"e": "a"}], {"environment": "*.e"}, "answers for several environments: a, b"),
])  # fmt: skip
def test_what_is_no_identity(fake: Platform, answer: Any, places: dict[str, str], why: str) -> None:
    """Refused, with the address and the reason."""
    with pytest.raises(RestoreError) as caught:
        said(fake, answer, **places)
    assert str(caught.value) == f"GET {fake.url}/about {why}"


def test_a_query_is_an_identity(fake: Platform) -> None:
    """The targets of a Prometheus, by a label that all of those that carry it share."""
    found = series(3, environment="shop-staging") + series(1)
    fake.answers["queries"]["count by (environment) (up)"] = found
    url = f"{fake.url}/api/v1/query?query=count%20by%20%28environment%29%20%28up%29"
    where = Identity(url=url, environment="data.result.*.metric.environment")
    assert asyncio.run(identity(where, Secrets({}))) == ("shop-staging", "")


class _Error(Exception):
    """The client's own error."""


@pytest.mark.parametrize(("answer", "kind", "status"), [
    ((401, {}), "refused", 401), ((403, {}), "refused", 403), ((500, {}), "status", 500), (None, "status", 404),
])  # fmt: skip
def test_behind_every_error_stands_what_kind_it_is(fake: Platform, answer: Any, kind: str, status: int) -> None:
    """Who may not ask is told from who is not there, without reading the message."""

    async def ask(url: str, path: str) -> Failure:
        async with Client(url, None, Secrets({}), _Error) as client:
            with pytest.raises(_Error) as caught:
                await client.ask("GET", path)
        assert isinstance(caught.value.__cause__, Failure)
        return caught.value.__cause__

    if answer is not None:
        fake.answers["/x"] = answer
    failure = asyncio.run(ask(fake.url, "/x"))
    assert (failure.kind, failure.status) == (kind, status)
    assert asyncio.run(ask("http://127.0.0.1:1", "/x")).kind == "unreachable"


def test_a_knock_takes_any_answer_but_a_refusal(fake: Platform) -> None:
    """A door answers with what it likes; one that is locked to us does not."""

    async def knock() -> int:
        async with Client(fake.url, None, Secrets({}), _Error) as client:
            return await client.knock()

    assert asyncio.run(knock()) == 404
    fake.token = "t"
    with pytest.raises(_Error):
        asyncio.run(knock())
