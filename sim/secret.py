"""Secret values: named in files by reference only, resolved late, and never written anywhere.

A reference is ``env:NAME`` or ``file:PATH``. Whoever resolves one does it through `Secrets`, which from then on knows
the value and can black it out of any text, in each spelling in which it may turn up.
"""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path
from urllib.parse import quote, quote_plus

BLACKED_OUT = "[redacted]"


class SecretMissing(Exception):
    """A reference names an environment variable or a file that is not there. The message names it, never a value."""


class Secrets:
    """The secret values that were resolved so far."""

    def __init__(self, environ: dict[str, str] | None = None) -> None:
        self._environ = os.environ if environ is None else environ
        self._spellings: dict[str, None] = {}

    def resolve(self, reference: str) -> str:
        """Return the value behind `reference`; from now on `redact` hides it. Raises `SecretMissing`, `ValueError`."""
        scheme, _, rest = reference.partition(":")
        if scheme == "env":
            value = self._environ.get(rest)
            if value is None:
                raise SecretMissing(f"environment variable {rest} is not set (wanted by {reference!r})")
        elif scheme == "file":
            try:
                value = Path(rest).expanduser().read_text(encoding="utf-8").strip()
            except OSError as error:
                raise SecretMissing(f"cannot read secret file {rest}: {error.strerror}") from error
        else:
            raise ValueError(f"not a secret reference: write env:NAME or file:PATH, not {scheme!r}:…")
        if not value:
            raise SecretMissing(f"the secret behind {reference!r} is empty")
        self.know(value)
        return value

    def know(self, value: str) -> None:
        """Hide `value` from now on, and what a header, a URL, JSON or Basic authentication makes of it."""
        plain = value.encode()
        for spelling in (
            value,
            json.dumps(value)[1:-1],
            json.dumps(value, ensure_ascii=False)[1:-1],
            quote(value, safe=""),
            quote_plus(value),
            base64.b64encode(plain).decode().rstrip("="),
            base64.urlsafe_b64encode(plain).decode().rstrip("="),
        ):
            self._spellings[spelling] = None

    def redact(self, text: str) -> str:
        """Return `text` with every known secret value blacked out, the longest spelling first."""
        for spelling in sorted(self._spellings, key=len, reverse=True):
            text = text.replace(spelling, BLACKED_OUT)
        return text
