"""`python -m mbp.dec.openapi`: print the contract `mbp.v1` as it is committed in `mbp/schemas/mbp/openapi.v1.json`."""

from __future__ import annotations

import json
import sys

from mbp.dec.app import build
from mbp.dec.engine_client import EngineClient


def contract() -> str:
    """Return the OpenAPI document as text: sorted, indented, ending in a newline. The same for both releases."""
    document = build("stable", EngineClient("http://127.0.0.1:1")).openapi()
    return json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    sys.stdout.write(contract())
