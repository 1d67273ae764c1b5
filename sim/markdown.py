"""Foreign text in Markdown: shown as it is, whatever signs are in it."""

from __future__ import annotations

import re

_ACTS = re.compile(r"(^[-+=]|[\\`*_\[\]#|~<>&$])")


def escaped(line: str) -> str:
    """Return one line of text with a backslash before every sign that Markdown, a table or HTML would act on."""
    return _ACTS.sub(r"\\\1", line)
