"""The one envelope of the record, and the words that may stand on it.

Everything that happens in a run is an `Event`; verdicts are a pure fold over them. A `kind` is one of three families:

=====================  =============================================================================================
run marks (source      ``run.opened  phase  note  timing  preflight  baseline  stopped  restored  run.error``
``sim``)               ``run.closed``
our own effects        ``fault.prepared  fault.t0  fault.applied  fault.lapsed  fault.effective  fault.ineffective``
(source ``sim``)       ``fault.withdrawing  fault.gone  fault.stuck  fault.held  fault.unheld  restore.called``
what was seen (source  ``alert  execution  message  state  gauge  silence`` and, about the looking itself,
= observer)            ``observer.seeing  observer.blind  observer.offset  observer.closed``
=====================  =============================================================================================

The fields of ``data`` for what was seen are the vocabulary of the chain, not of any tool:

``alert``
    ``name``, ``labels`` (all of them), ``fingerprint`` (Alertmanager's 16 hex digits), ``starts_at`` (epoch s),
    ``state`` (``pending``, ``firing``, ``resolved``). One event per change of state. While pending, ``starts_at`` is
    when the condition began to hold.
``execution``
    ``id``, ``hook``, ``action``, ``target``, ``state`` (``accepted started retry succeeded failed skipped dead_letter
    reverted``), ``fingerprint``, ``starts_at``, ``alert`` (name), ``audit_seq`` (the executor's own order), ``detail``.
``message``
    ``id``, ``channel`` (a key of the profile's owner entries: ``oncall slack email tickets``), ``address`` (who
    received it), ``status`` (``firing``, ``resolved``, null for what is not an alert), ``title``, ``alerts``: a list of
    ``{name, labels, fingerprint, starts_at, status}``, each value null where the message does not carry it.
``state``
    ``fact``, ``value`` (null: the source answered, and the subject does not exist). One event per change.
``gauge``
    ``fact``, ``value`` (null: no data), ``reason`` beside a null. One event per sample.
``silence``
    ``id``, ``matchers`` (``[{name, value, is_regex, is_equal}]``), ``ends_at``, ``state`` (``active``, ``expired``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

JSON: TypeAlias = "bool | int | float | str | list[JSON] | dict[str, JSON] | None"

#: The source of everything that the runner itself did or decided.
SIM = "sim"


@dataclass(frozen=True, slots=True)
class Event:
    """One line of the record.

    ``seq`` counts from 0 and is the order of the record. ``seen_at`` is the run's monotonic clock in seconds and is
    what verdicts are judged by; ``wall`` (epoch s) is a label. ``occurred_at`` is the source's own time (epoch s) or
    null. ``prev`` is the SHA-256 of the raw previous line (64 zeros for the first).
    """

    seq: int
    seen_at: float
    wall: float
    occurred_at: float | None
    source: str
    kind: str
    data: Mapping[str, JSON]
    prev: str
