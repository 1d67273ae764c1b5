"""Secret values: named in files by reference only, resolved late, and never written anywhere.

A reference is ``env:NAME`` or ``file:PATH``. Whoever resolves one does it through `Secrets`, which from then on knows
the value and can black it out of any text, in each spelling in which it may turn up.
"""

from __future__ import annotations

import base64
import html
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, quote_plus

BLACKED_OUT = "[redacted]"

#: A line of a secret that is shorter says too little to be hidden by itself.
SHORTEST_LINE = 8


class SecretMissing(Exception):
    """A reference names an environment variable or a file that is not there. The message names it, never a value."""


class Secrets:
    """The secret values that were resolved so far."""

    def __init__(self, environ: dict[str, str] | None = None) -> None:
        self._environ = os.environ if environ is None else environ
        self._spellings: dict[str, None] = {}
        self._any: re.Pattern[str] | None = None

    def resolve(self, reference: str) -> str:
        """Return the value behind `reference`; from now on `redact` hides it. Raises `SecretMissing`, `ValueError`."""
        scheme, _, rest = reference.partition(":")
        if scheme == "env":
            value = self._environ.get(rest)
            if value is None:
                raise SecretMissing(f"environment variable {rest} is not set (wanted by {reference!r})")
            value = value.rstrip("\r\n")  # as a shell's $(...) does; whoever fills it from a file forgets that
        elif scheme == "file":
            try:
                value = Path(rest).expanduser().read_text(encoding="utf-8").strip()
            except OSError as error:
                raise SecretMissing(f"cannot read secret file {rest}: {error.strerror}") from error
            except UnicodeDecodeError as error:
                raise SecretMissing(f"secret file {rest} is not text in UTF-8") from error
        else:
            raise ValueError(f"not a secret reference: write env:NAME or file:PATH, not {scheme!r}:…")
        if not value:
            raise SecretMissing(f"the secret behind {reference!r} is empty")
        self.know(value)
        return value

    def token(self, reference: str) -> str:
        """Return the value behind `reference` if it can stand in a header; else raises as `resolve` does."""
        value = self.resolve(reference)
        if not (value.isascii() and value.isprintable()):
            what = "a line break" if len(value.splitlines()) > 1 else "a character that is not printable ASCII"
            raise SecretMissing(f"the secret behind {reference!r} is no token: it holds {what}")
        return value

    def know(self, value: str) -> None:
        """Hide `value` from now on, and what a header, a URL, JSON, HTML or Basic authentication makes of it."""
        self._spellings.update(dict.fromkeys(each for each in _spellings(value) if each))
        longest = sorted(self._spellings, key=len, reverse=True)
        self._any = re.compile("|".join(map(re.escape, longest)))

    def redact(self, text: str) -> str:
        """Return `text` with every known secret value blacked out, the longest spelling first."""
        return self._any.sub(BLACKED_OUT, text) if self._any else text


def _spellings(value: str) -> Iterator[str]:
    """Yield the ways in which others write `value`: whoever echoes it seldom does so letter by letter."""
    plain = value.encode("utf-8", "surrogateescape")
    quoted = (quote(plain, safe=""), quote(plain), quote_plus(plain))
    written = json.dumps(value)[1:-1], json.dumps(value, ensure_ascii=False)[1:-1]
    yield value
    yield from written
    yield from (text.replace("/", "\\/") for text in written)  # PHP and some Java
    yield from (_for_html(text) for text in written)  # Go
    yield repr(value)[1:-1]
    yield from quoted
    yield from (re.sub("%[0-9A-F]{2}", lambda match: match[0].lower(), text) for text in quoted)
    yield from (html.escape(value), html.escape(value, quote=False))
    yield base64.b64encode(plain).decode().rstrip("=")
    yield base64.urlsafe_b64encode(plain).decode().rstrip("=")
    lines = value.split()
    if len(lines) > 1:  # a key in several lines, shown on one or in part
        yield " ".join(lines)
        yield from (line for line in value.splitlines() if len(line) >= SHORTEST_LINE)


def _for_html(text: str) -> str:
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")
