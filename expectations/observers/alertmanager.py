"""Reads an Alertmanager: alerts and silences, and puts a harmless test alert into its path.

Silenced and inhibited alerts are alerts; that they are silenced is told by the silence. An alert that Alertmanager no
longer lists is resolved: its API lists no alert whose end has passed.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Literal

from expectations._episodes import Episode, Episodes
from expectations._http import HttpConfig, count, looker, rows, table, text
from expectations._stamp import epoch
from sim.event import JSON
from sim.observation import CannotLook, Observation, ObserverKind, Opening, Remark
from sim.wire import Client

_ALERTS, _SILENCES, _RECEIVERS = "/api/v2/alerts", "/api/v2/silences", "/api/v2/receivers"
_ALL = {"active": "true", "silenced": "true", "inhibited": "true", "unprocessed": "true"}


class Config(HttpConfig):
    """No keys of its own."""

    kind: Literal["alertmanager"] = "alertmanager"


class Alertmanager:
    """The observer. See `sim.observation.Observer`."""

    def __init__(self, client: Client, wall: Callable[[], float] = time.time) -> None:
        self._client, self._wall = client, wall
        self._episodes = Episodes()
        self._silences: dict[str, dict[str, JSON]] = {}

    async def poll(self) -> Sequence[Observation]:
        """Look once. Raises `CannotLook`, and then has forgotten nothing."""
        alerts = rows((await self._client.ask("GET", _ALERTS, params=_ALL)).json, _ALERTS)
        silences = rows((await self._client.ask("GET", _SILENCES)).json, _SILENCES)
        now = {episode.fingerprint: episode for episode in map(_episode, alerts)}
        held = {str(data["id"]): data for data in map(_silence, silences)}
        return [*self._turn_silences(held), *self._episodes.turn(now)]

    async def closely(self) -> Sequence[Remark]:
        """Say whom it could tell."""
        listed = rows((await self._client.ask("GET", _RECEIVERS)).json, _RECEIVERS)
        names = [text(row, "name", _RECEIVERS) for row in listed]
        if not names:
            return [Remark(False, "no receiver", "name one in receivers: of its configuration")]
        return [Remark(True, f"{count(len(names), 'receiver')}: {', '.join(names[:8])}{', …' if names[8:] else ''}")]

    def _turn_silences(self, held: Mapping[str, dict[str, JSON]]) -> list[Observation]:
        seen = []
        for key, before in self._silences.items():
            after = held.get(key, {**before, "state": "expired"})
            if before["state"] == "active" and after["state"] != "active":
                seen.append(Observation("silence", {**after, "state": "expired"}))
        for key, after in held.items():
            if after["state"] == "active" and self._silences.get(key) != after:
                seen.append(Observation("silence", after))
        self._silences = dict(held)
        return seen

    async def send_canary(self, labels: Mapping[str, str], ends_in_s: float) -> None:
        """Send one alert with exactly these labels that ends by itself. Raises `CannotLook`.

        Its end is told by Alertmanager's clock where that is seconds off ours, lest it arrives already resolved.
        """
        answer = await self._client.ask("GET", "/api/v2/status")
        now = self._wall()
        try:
            theirs = parsedate_to_datetime(answer.headers.get("Date", "")).timestamp()
        except ValueError:
            theirs = now
        if abs(theirs - now) > 1.5:  # the header has whole seconds
            now = theirs
        alert: JSON = {"labels": dict(labels), "startsAt": _rfc3339(now), "endsAt": _rfc3339(now + ends_in_s)}
        await self._client.ask("POST", _ALERTS, json=[alert], accept=(200, 202))


def _rfc3339(epoch_s: float) -> str:
    return datetime.fromtimestamp(epoch_s, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _episode(row: Mapping[str, JSON]) -> Episode:
    starts = text(row, "startsAt", _ALERTS)
    if epoch(starts) is None:
        raise CannotLook(f"{_ALERTS}: startsAt is not a time: {starts!r:.60}")
    labels = {name: str(value) for name, value in table(row.get("labels"), _ALERTS).items()}
    return Episode(labels, text(row, "fingerprint", _ALERTS), starts, epoch(starts), "firing")


def _silence(row: Mapping[str, JSON]) -> dict[str, JSON]:
    matchers: list[JSON] = [
        {
            "name": text(matcher, "name", _SILENCES),
            "value": text(matcher, "value", _SILENCES),
            "is_regex": matcher.get("isRegex") is True,
            "is_equal": matcher.get("isEqual") is not False,  # absent in old versions: equal
        }
        for matcher in rows(row.get("matchers"), _SILENCES)
    ]
    return {
        "id": text(row, "id", _SILENCES),
        "matchers": matchers,
        "ends_at": epoch(row.get("endsAt")),
        "state": text(table(row.get("status"), _SILENCES), "state", _SILENCES),
    }


@asynccontextmanager
async def _open(opening: Opening) -> AsyncIterator[Alertmanager]:
    config = opening.config
    if not isinstance(config, Config):
        raise TypeError(f"observer {opening.name}: not an alertmanager configuration")
    async with looker(config, opening.secrets) as client:
        yield Alertmanager(client)


observer = ObserverKind(
    summary="alerts and silences of an Alertmanager; sends the test alert",
    config=Config,
    open=_open,
    yields=frozenset({"alert", "silence"}),
)
