"""The observer of an Alertmanager, against answers as 0.25 gives them."""

from __future__ import annotations

import asyncio
from email.utils import formatdate

import pytest
from aiohttp import web
from fake_http import serve

from expectations._http import looker
from expectations.observers.alertmanager import Alertmanager, Config, observer
from sim.observation import CannotLook, Observation, Opening, SendsCanary
from sim.secret import Secrets

STATUS = {"inhibitedBy": [], "silencedBy": ["s1"], "state": "suppressed"}
ALERT = {
    "annotations": {},
    "endsAt": "2026-11-23T14:00:04.651Z",
    "fingerprint": "f6bbd3e7dd4ebe89",
    "receivers": [{"name": "sre"}],
    "startsAt": "2026-11-23T13:56:37.651Z",
    "status": STATUS,
    "labels": {"alertname": "Later", "owner": "SRE"},
}
SILENCE = {
    "id": "s1",
    "status": {"state": "active"},
    "endsAt": "2026-11-23T14:09:45.478Z",
    "matchers": [
        {"isEqual": True, "isRegex": False, "name": "alertname", "value": "Later"},
        {"isEqual": False, "isRegex": True, "name": "owner", "value": "S.*"},
        {"isRegex": False, "name": "old", "value": "x"},
    ],
}


def opened(fake):
    return observer.open(Opening("am", Config(url=fake.url), {}, Secrets({})))


def test_alerts_and_silences_are_told_when_they_change():
    """A suppressed alert is an alert; what is no longer listed is resolved; an expired silence was active before."""
    data = {
        "name": "Later",
        "labels": {"alertname": "Later", "owner": "SRE"},
        "fingerprint": "f6bbd3e7dd4ebe89",
        "starts_at": 1795442197.651,
    }
    silence = {
        "id": "s1",
        "matchers": [
            {"name": "alertname", "value": "Later", "is_regex": False, "is_equal": True},
            {"name": "owner", "value": "S.*", "is_regex": True, "is_equal": False},
            {"name": "old", "value": "x", "is_regex": False, "is_equal": True},
        ],
        "ends_at": 1795442985.478,
    }

    async def main():
        old = {**SILENCE, "id": "s0", "status": {"state": "expired"}}
        routes = {"GET /api/v2/alerts": [ALERT], "GET /api/v2/silences": [SILENCE, old]}
        async with serve(routes) as fake, opened(fake) as alertmanager:
            assert await alertmanager.poll() == [
                Observation("silence", {**silence, "state": "active"}),
                Observation("alert", {**data, "state": "firing"}, 1795442197.651),
            ]
            assert fake.asked[0][0] == "GET /api/v2/alerts?active=true&silenced=true&inhibited=true&unprocessed=true"
            assert await alertmanager.poll() == []
            routes["GET /api/v2/silences"] = [{**SILENCE, "status": {"state": "expired"}}]
            assert await alertmanager.poll() == [Observation("silence", {**silence, "state": "expired"})]
            routes["GET /api/v2/silences"] = (500, {})
            routes["GET /api/v2/alerts"] = []
            with pytest.raises(CannotLook, match="500"):
                await alertmanager.poll()
            routes["GET /api/v2/silences"] = []
            assert await alertmanager.poll() == [Observation("alert", {**data, "state": "resolved"})]

    asyncio.run(main())


@pytest.mark.parametrize("broken", [{"startsAt": "soon"}, {"fingerprint": None}, {"labels": []}])
def test_nonsense_is_blindness(broken):
    """An answer that cannot be understood is no look, rather than an alert without identity."""

    async def main():
        routes = {"GET /api/v2/alerts": [{**ALERT, **broken}], "GET /api/v2/silences": []}
        async with serve(routes) as fake, opened(fake) as alertmanager:
            await alertmanager.poll()

    with pytest.raises(CannotLook, match="/api/v2/alerts"):
        asyncio.run(main())


@pytest.mark.parametrize(
    ("ahead_s", "starts"), [(0.0, "2023-11-14T22:13:20.250Z"), (3600.0, "2023-11-14T23:13:20.000Z")]
)
def test_the_canary_has_exactly_its_labels_and_ends_by_alertmanagers_clock(ahead_s, starts):
    """With clocks that agree ours is used, in milliseconds; with one that is off, theirs."""
    now = 1_700_000_000.25

    async def status(request):
        return web.json_response({}, headers={"Date": formatdate(int(now + ahead_s), usegmt=True)})

    async def main():
        routes = {"GET /api/v2/status": status, "POST /api/v2/alerts": {}}
        async with serve(routes) as fake, looker(Config(url=fake.url), Secrets({})) as client:
            alertmanager = Alertmanager(client, wall=lambda: now)
            assert isinstance(alertmanager, SendsCanary)
            await alertmanager.send_canary({"alertname": "SimCanary", "run": "r1"}, 2.0)
            return fake.asked[-1]

    line, body = asyncio.run(main())
    assert line == "POST /api/v2/alerts"
    assert body == [
        {
            "labels": {"alertname": "SimCanary", "run": "r1"},
            "startsAt": starts,
            "endsAt": starts.replace(":20.", ":22."),
        }
    ]
