"""The page and its two bundles as they are served: stable is the old one, candidate the new one.

What the button's handler costs is a fixed list of times, in turn by view, so that views of two bundles can be compared
pair by pair. A regression (`fe.bundle`) makes another candidate bundle of other bytes, and so of another name.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Bundle = Literal["candidate", "stable"]

HERE = Path(__file__).parent
RUM = HERE.parent / "rum"

#: How long the handler of the view's turn works, ms: on the 8 ms grid of Event Timing, good (at most 160).
HANDLER_MS = (128, 144, 136, 152, 128, 160, 144, 136)

#: Rendered bundles that are still served, newest last: a page that was loaded keeps its own.
KEPT = 8

#: What the page loads beside its bundle: path → file.
SCRIPTS = {
    "/static/boot.js": HERE / "static/boot.js",
    "/static/hydrate.js": HERE / "static/hydrate.js",
    "/rum/web-vitals.iife.js": RUM / "vendor/web-vitals.iife.js",
    "/rum/collector.js": RUM / "collector.js",
}


@dataclass(frozen=True, slots=True)
class Rendered:
    """One bundle: where it is, its bytes, and the times of its handler (ms) in turn."""

    src: str
    body: bytes
    handler_ms: tuple[int, ...]


class Bundles:
    """Renders bundles and pages. `page` and `env` label the view; `rum` is where its beacon goes."""

    def __init__(self, *, page: str, env: str, rum: str, market: str) -> None:
        """Read the files of this folder."""
        self._labels = {"page": page, "env": env, "rum": rum, "market": market}
        self._sources = {name: (HERE / f"static/{name}.js").read_text("utf-8") for name in ("candidate", "stable")}
        self._html = (HERE / "static/page.html").read_text("utf-8")
        self._kept: dict[str, Rendered] = {}
        self.views = 0

    def render(self, bundle: Bundle, extra_ms: int = 0) -> Rendered:
        """Return a bundle whose handler works `extra_ms` longer, and serve it from now on."""
        times = tuple(each + extra_ms for each in HANDLER_MS)
        body = self._sources[bundle].replace("__HANDLER_MS__", json.dumps(times)).encode()
        src = f"/bundles/{bundle}-{hashlib.sha256(body).hexdigest()[:12]}.js"
        rendered = self._kept.pop(src, None) or Rendered(src, body, times)
        self._kept[src] = rendered
        for oldest in list(self._kept)[:-KEPT]:
            del self._kept[oldest]
        return rendered

    def find(self, src: str) -> Rendered | None:
        """Return the bundle at a path, if it was rendered lately."""
        return self._kept.get(src)

    def view(self, bundle: Bundle, extra_ms: int = 0) -> str:
        """Return the page of the next view."""
        rendered = self.render(bundle, extra_ms)
        step = self.views % len(HANDLER_MS)
        self.views += 1
        config = {"bundle": bundle, "src": rendered.src, "step": step, **self._labels}
        text = json.dumps(config).replace("<", "\\u003c")
        return self._html.replace("__SRC__", rendered.src).replace("__CONFIG__", text)
