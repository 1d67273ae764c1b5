"""Where finished spans go: a file of OTLP-JSON lines, bounded, written span by span so that a `kill -9` loses none.

Each line is a whole `ExportTraceServiceRequest` as the OTLP file exporter has it; an OpenTelemetry Collector reads such
files as they are (`otlpjsonfile` receiver). A span that cannot be written is counted, and never stops a request.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from threading import Lock
from typing import Any

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

FILE_BYTES = 32 * 1024 * 1024  # a file that is full is set aside once, over the one before it: two are kept
_KINDS = {"INTERNAL": 1, "SERVER": 2, "CLIENT": 3, "PRODUCER": 4, "CONSUMER": 5}
_STATUS = {"UNSET": 0, "OK": 1, "ERROR": 2}


def _value(value: Any) -> dict[str, Any]:
    if isinstance(value, bool):
        return {"boolValue": value}
    if isinstance(value, int):
        return {"intValue": str(value)}  # 64-bit numbers are text in OTLP-JSON
    return {"doubleValue": value} if isinstance(value, float) else {"stringValue": str(value)}


def _attributes(given: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [{"key": key, "value": _value(value)} for key, value in given.items()]


def as_json(span: ReadableSpan) -> dict[str, Any]:
    """Return one span as OTLP-JSON has it (ids in hex, times in nanoseconds as text)."""
    context = span.context
    if context is None:
        raise ValueError("a span without a context cannot be exported")
    shown = {
        "traceId": f"{context.trace_id:032x}",
        "spanId": f"{context.span_id:016x}",
        "parentSpanId": f"{span.parent.span_id:016x}" if span.parent is not None else "",
        "name": span.name,
        "kind": _KINDS[span.kind.name],
        "startTimeUnixNano": str(span.start_time),
        "endTimeUnixNano": str(span.end_time),
        "attributes": _attributes(span.attributes or {}),
        "status": {"code": _STATUS[span.status.status_code.name]},
    }
    if not shown["parentSpanId"]:
        del shown["parentSpanId"]
    return shown


class SpanFile(SpanExporter):
    """Appends spans to `DIR/<name>.jsonl`, at most two files of :data:`FILE_BYTES`."""

    def __init__(self, folder: Path, name: str, resource: Mapping[str, str], limit: int = FILE_BYTES) -> None:
        """Open (and create) the file; ``resource`` says whose spans they are."""
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.path, self._limit = folder / f"{name}.jsonl", limit
        head = {
            "resource": {"attributes": _attributes(resource)},
            "scopeSpans": [{"scope": {"name": "mbp"}, "spans": []}],
        }
        text = json.dumps({"resourceSpans": [head]}, separators=(",", ":"))
        self._before, self._after = (part.encode() for part in text.rsplit("[]", 1))
        self.dropped = 0
        self._torn = False  # the last line is not whole
        self._lock = Lock()  # a service may end spans on several threads
        self._open()

    def _open(self) -> None:
        self._file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._size = os.fstat(self._file).st_size

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Append the spans; a failure is counted and told, not raised."""
        for span in spans:
            body = json.dumps([as_json(span)], separators=(",", ":"), ensure_ascii=True).encode()
            line = self._before + body + self._after + b"\n"
            with self._lock:
                try:
                    if self._size + len(line) > self._limit:
                        self._turn_over()
                    self._write(line)
                except OSError:
                    self.dropped += 1
                    return SpanExportResult.FAILURE
        return SpanExportResult.SUCCESS

    def _write(self, line: bytes) -> None:
        if self._file < 0:
            self._open()
        line = b"\n" + line if self._torn else line
        written = os.write(self._file, line)
        self._size += written
        self._torn = written != len(line)  # a full disk takes a part; the next line begins on a line of its own
        if self._torn:
            raise OSError(f"only {written} of {len(line)} bytes were written")

    def _turn_over(self) -> None:
        self.shutdown()
        self.path.replace(self.path.with_suffix(".1.jsonl"))
        self._torn = False

    def shutdown(self) -> None:
        """Close the file; a later span opens it again."""
        if self._file >= 0:
            # Its number is forgotten first: it may soon be another file's.
            number, self._file, self._size = self._file, -1, 0
            os.close(number)
