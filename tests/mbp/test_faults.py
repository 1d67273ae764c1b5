"""The fault door that services share, on a service of two points."""

from __future__ import annotations

import asyncio
from typing import Annotated

import pytest
from prometheus_client import CollectorRegistry
from pydantic import Field

from mbp import _faults
from mbp._asgi import ApiError, create_app, no_complaint
from mbp._faults import Door, Faults, Point, fault_router, sweep_forever
from mbp._trace import trace_id_of
from mbp._wire import Wire
from tests.mbp.engines import BEARER, TOKEN, Clocks, ask, refusal


class Hold(Wire):
    """What the point of the tests is told."""

    delay_s: Annotated[float, Field(gt=0, le=600)]


class Service:
    """An app with the points `toy.hold` (alone) and `toy.other`."""

    def __init__(self, token=TOKEN):
        self.clocks, self.seen, self.refuse = Clocks(), [], False
        self.faults = Faults(
            [
                Point("toy.hold", "hold", Hold, self.apply, self.remove, lambda fault: {"at": fault.id}, alone=True),
                Point("toy.other", "mutate", Hold),
            ],
            monotonic=self.clocks.monotonic,
            wall=self.clocks.wall,
        )
        self.app = create_app("toy", registry=CollectorRegistry(), health=no_complaint)
        self.app.add_middleware(Door, token=token)
        self.app.include_router(fault_router(self.faults))

    def apply(self, fault_id, params):
        if self.refuse:
            raise ApiError(409, "busy", "not now")
        self.seen.append(("apply", fault_id, params.delay_s))

    def remove(self, fault):
        self.seen.append(("remove", fault.id))

    def put(self, fault_id="f1", headers=BEARER, **changes):
        body = {"point": "toy.hold", "kind": "hold", "params": {"delay_s": 1.5}, "ttl_s": 10, "run": "r1", **changes}
        return ask(self.app, "PUT", f"/faults/{fault_id}", json=body, headers=headers)

    def list(self):
        return ask(self.app, "GET", "/faults", headers=BEARER).json()


@pytest.fixture
def service():
    """A fresh service with its door open."""
    return Service()


def test_a_fault_is_applied_listed_met_renewed_and_removed(service):
    """One life of a fault, whole values."""
    shown = {
        "id": "f1",
        "point": "toy.hold",
        "kind": "hold",
        "run": "r1",
        "rev": 1,
        "params": {"delay_s": 1.5},
        "rate": 1.0,
        "match": {},
        "seed": 0,
        "ttl_s": 10.0,
        "expires_at": "2023-11-14T22:30:10.000000Z",
        "hits": 0,
        "impacted": 0,
        "last_hit_at": None,
        "at": "f1",
    }
    assert service.faults.at("toy.hold") is None
    assert (service.put().json(), service.list()) == (shown, [shown])
    assert service.faults.bites("toy.hold").spec.params == Hold(delay_s=1.5)
    assert service.faults.bites("toy.other") is None
    service.clocks.now += 9
    again = {**shown, "rev": 2, "expires_at": "2023-11-14T22:30:19.000000Z", "hits": 1, "impacted": 1}
    assert service.put().json() == {**again, "last_hit_at": "2023-11-14T22:30:00.000000Z"}
    lines = [(f.name, [(s.labels["point"], s.value) for s in f.samples]) for f in service.faults.families()]
    assert lines == [
        ("sim_fault_active", [("toy.hold", 1), ("toy.other", 0)]),
        ("sim_fault_hits", [("toy.hold", 1), ("toy.other", 0)]),
    ]
    assert ask(service.app, "DELETE", "/faults/f1", headers=BEARER).status_code == 204
    assert ask(service.app, "DELETE", "/faults/f1", headers=BEARER).status_code == 204
    assert (service.list(), service.seen) == ([], [("apply", "f1", 1.5), ("remove", "f1")])


def test_an_expired_fault_is_gone_where_it_would_bite(service):
    """To the second, and although no timer ran; what it was is told to the service once."""
    service.put(ttl_s=5)
    service.clocks.now += 4.999
    assert service.faults.at("toy.hold") is not None
    service.clocks.now += 0.001
    assert service.faults.bites("toy.hold") is None
    assert service.seen == [("apply", "f1", 1.5), ("remove", "f1")]


def test_leases_end_although_nobody_asks(service):
    """The sweeper removes what has run out."""

    async def main():
        task = asyncio.create_task(sweep_forever(service.faults, every_s=0))
        while service.faults.leases:
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    service.put(ttl_s=5)
    service.clocks.now += 5
    asyncio.run(main())
    assert service.seen[-1] == ("remove", "f1")


def test_a_run_takes_all_its_faults_with_it(service):
    """And those of no other run."""
    service.put("f1", run="r1")
    service.put("f2", run="r2", point="toy.other", kind="mutate")
    assert ask(service.app, "DELETE", "/faults?run=r1", headers=BEARER).status_code == 204
    assert [fault["id"] for fault in service.list()] == ["f2"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"params": {"delay_s": 0}}, (422, "invalid")),
        ({"params": {"delay_s": 1, "more": 1}}, (422, "invalid")),
        ({"params": []}, (422, "invalid")),
        ({"point": "toy.none"}, (422, "invalid")),
        ({"kind": "mutate"}, (422, "invalid")),
        ({"ttl_s": 0.05}, (422, "invalid")),
        ({"ttl_s": 61}, (422, "invalid")),
        ({"rate": 0}, (422, "invalid")),
        ({"match": {"a": "b"}}, (422, "invalid")),
        ({"run": ""}, (422, "invalid")),
        ({"more": 1}, (422, "invalid")),
        ({"headers": {}}, (401, "unauthorized")),
    ],
)
def test_a_bad_body_is_refused_and_nothing_is_applied(service, changes, said):
    """Each with a clear 4xx."""
    assert refusal(service.put(**changes)) == said
    assert (service.list(), service.seen) == ([], [])


def test_params_that_are_wrong_are_named_where_they_stand(service):
    """As if the body had been one model."""
    text = service.put(params={"delay_s": "1"}).json()["detail"]
    assert text == "body.params.delay_s: Input should be a valid number"


def test_what_stands_against_a_fault_is_told(service, monkeypatch):
    """Another body, a point that holds one only, too many, and the service's own refusal; each is a 409."""
    service.put()
    assert refusal(service.put(params={"delay_s": 2})) == (409, "fault_differs")
    assert refusal(service.put("f2")) == (409, "too_many_faults")
    monkeypatch.setattr(_faults, "FAULTS_AT_ONCE", 1)
    assert refusal(service.put("f2", point="toy.other", kind="mutate")) == (409, "too_many_faults")
    ask(service.app, "DELETE", "/faults/f1", headers=BEARER)
    service.refuse = True
    assert refusal(service.put()) == (409, "busy")
    assert service.list() == []


def test_a_share_of_hits_is_changed_by_seeded_dice(service):
    """The same seed gives the same share; all are counted."""

    def bitten():
        service.put(rate=0.5, seed=7)
        found = [service.faults.bites("toy.hold") is not None for _ in range(20)]
        (listed,) = service.list()
        assert (listed["hits"], listed["impacted"]) == (20, sum(found))
        ask(service.app, "DELETE", "/faults/f1", headers=BEARER)
        return found

    first = bitten()
    assert first == bitten()
    assert 0 < sum(first) < 20


def test_a_shut_door_is_not_there():
    """404 with or without a token, and the service's own paths are untouched."""
    shut = Service(token=None)
    assert refusal(shut.put()) == (404, "not_found")
    assert ask(shut.app, "GET", "/identity").status_code == 200


TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


@pytest.mark.parametrize(
    ("header", "found"),
    [
        (f"00-{TRACE}-00f067aa0ba902b7-01", TRACE),
        (f" 00-{TRACE}-00f067aa0ba902b7-00 ", TRACE),
        (f"01-{TRACE}-00f067aa0ba902b7-01-more", TRACE),
        (f"00-{TRACE}-00f067aa0ba902b7-01-more", None),
        (f"ff-{TRACE}-00f067aa0ba902b7-01", None),
        (f"00-{TRACE.upper()}-00f067aa0ba902b7-01", None),
        (f"00-{'0' * 32}-00f067aa0ba902b7-01", None),
        (f"00-{TRACE}-{'0' * 16}-01", None),
        ("nonsense", None),
        ("", None),
        (None, None),
    ],
)
def test_the_trace_id_is_read_from_a_valid_traceparent_only(header, found):
    """As W3C Trace Context has it."""
    assert trace_id_of(header) == found
