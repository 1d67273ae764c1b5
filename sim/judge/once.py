"""What belongs to the fault and ought not to be there: what nobody declared, and what came more than once."""

from __future__ import annotations

from collections.abc import Iterable

from sim.judge.ledger import Execution, Ledger, Message


def violations(ledger: Ledger) -> Iterable[tuple[str, tuple[int, ...]]]:
    """Yield what belongs to the fault and was neither declared nor allowed, each with its events."""
    hook = ledger.plan.hook
    assert hook is not None
    named = {action.name for action in hook.actions} | set(hook.also)
    for execution in ledger.our_executions():
        if execution.action not in named and execution.last in ("started", "retry", "succeeded", "reverted"):
            at = execution.started_event or execution.alert.seq
            yield f"uninvited action: {execution.action} on {execution.target}", (at,)
    for message in ledger.our_messages():
        if message.owner != hook.owner and message.owner not in hook.also:
            yield f"uninvited owner: {message.owner} told by {message.channel} at {message.address}", (message.seq,)
    yield from _astray(ledger)
    yield from duplicates(ledger)


def _astray(ledger: Ledger) -> Iterable[tuple[str, tuple[int, ...]]]:
    """Yield what was done elsewhere for an alert for which it was also done on what carries the injection's id."""
    done = [execution for execution in ledger.our_executions() if execution.succeeded_event is not None]
    meant = {_deed(execution) for execution in done if _carries(ledger, execution)}
    for execution in done:
        if _deed(execution) in meant and not _carries(ledger, execution) and execution.succeeded_event is not None:
            yield f"uninvited target: {execution.action} on {execution.target}", (execution.succeeded_event,)


def _deed(execution: Execution) -> tuple[object, ...]:
    return (execution.action, execution.alert.key, execution.alert.starts_at)


def _carries(ledger: Ledger, execution: Execution) -> bool:
    return any(injection in execution.target for injection in ledger.injections)


def duplicates(ledger: Ledger) -> Iterable[tuple[str, tuple[int, ...]]]:
    """Yield what was done or said more than once for one alert.

    An alert that was resolved and fired again counts once more only if Prometheus showed it inactive in between.
    """
    done: dict[tuple[str, str], list[Execution]] = {}
    for execution in ledger.our_executions():
        if execution.succeeded_event is not None:
            done.setdefault((execution.action, execution.target), []).append(execution)
    for (action, target), executions in done.items():
        allowed = 1 + max(ledger.renewals(execution.alert) for execution in executions)
        if len(executions) > allowed:
            seqs = tuple(e.succeeded_event for e in executions if e.succeeded_event is not None)
            yield f"done {len(executions)} times: {action} on {target}", seqs
    told: dict[tuple[object, ...], dict[float | None, Message]] = {}
    for message in ledger.our_messages():
        key = (message.alert.key, message.channel, message.address)
        told.setdefault(key, {}).setdefault(message.alert.starts_at, message)
    for (_, channel, address), messages in told.items():
        allowed = 1 + max(ledger.renewals(message.alert) for message in messages.values())
        if len(messages) > allowed:
            yield f"told {len(messages)} times: {channel} {address}", tuple(m.seq for m in messages.values())
