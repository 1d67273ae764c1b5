"""The W3C trace context: the id of the trace that a request belongs to."""

from __future__ import annotations

import re

_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}(-.*)?", re.ASCII)


def trace_id_of(header: str | None) -> str | None:
    """Return the trace id (32 hex digits) in a ``traceparent`` header; None when there is none or it is not valid.

    As the specification has it: version ``ff`` and all-zero ids are invalid, and only a later version may have more
    than the four fields.
    """
    found = _TRACEPARENT.fullmatch(header.strip()) if header else None
    if found is None or found[1] == "ff" or (found[1] == "00" and found[4]):
        return None
    return found[2] if found[2].strip("0") and found[3].strip("0") else None
