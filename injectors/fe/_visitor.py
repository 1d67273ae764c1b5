"""The visitor of `fe.inp_regress`, a process of its own: opens the page, clicks, leaves, one view at a time.

    python -m injectors.fe._visitor

The first line of standard input says where (``{"page", "rum", "views", "every_s"}``); when standard input
ends, so does the visitor. It says one JSON object a line: ``note``, and ``ready`` after so many views whose beacons
the collector has. With Chromium and playwright each view is a real page in a real browser. Without, it sends what the
collector of the page would send, with the handler time of the bundle that is served at that moment; that is said in
every beacon, and in the evidence. ``SIM_BROWSER=none`` asks for that.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import json
import os
import re
import shutil
import sys
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import aiohttp

#: What browsers of the Chromium family are called, where somebody installed one.
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")

#: No request of the browser's own leaves it, and a machine without GPU or user namespaces serves.
FLAGS = (
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-dev-shm-usage",
    "--disable-gpu",
    "--disable-sync",
    "--mute-audio",
    "--no-first-run",
)

#: The longest that one step of a view may take, s; that a beacon may take; views in a row that may fail.
STEP_S, BEACON_S, FAILED = 10.0, 5.0, 5

_CONFIG = re.compile(r'<script type="application/json" id="config">(.*?)</script>', re.DOTALL)
_HANDLER = re.compile(r"HANDLER_MS = (\[[0-9, ]+\])")


class VisitError(Exception):
    """A view did not come to its end; the text says where."""


@dataclass(frozen=True, slots=True)
class Orders:
    """What the visitor is told: page and collector (base URLs), views until it is ready, seconds from view to view."""

    page: str
    rum: str
    views: int
    every_s: float


class Way(Protocol):
    """A way to make one view."""

    @property
    def name(self) -> str:
        """What it is, for the evidence."""
        ...

    async def view(self) -> str:
        """Make one view and return its id; its beacon is sent. Raises `VisitError`."""
        ...


class Browser:
    """Views in a real browser: a page of its own each, left like a user leaves it."""

    def __init__(self, browser: Any, page: str, error: type[Exception]) -> None:
        """Take a playwright browser and its kind of error."""
        self._browser, self._url, self._error = browser, page + "/", error
        self._context: Any = None

    @property
    def name(self) -> str:
        """See `Way`."""
        return f"chromium {self._browser.version.split('.')[0]}"

    async def view(self) -> str:
        """See `Way`."""
        try:
            if self._context is None:
                self._context = await self._browser.new_context()
                self._context.set_default_timeout(STEP_S * 1000)
            page = await self._context.new_page()
            try:
                await page.goto(self._url, wait_until="load")
                await page.wait_for_selector("#quote[data-hydrated]")
                await page.click("#quote")
                await page.wait_for_function("window.mbpRum.inp_ms !== undefined", polling=50)
                await page.wait_for_selector("#answer[data-done]", state="attached")
                view = str(await page.evaluate("window.mbpRum.view"))
                await page.goto("about:blank")  # hides the page: now its beacon goes out
                return view
            finally:
                await page.close()
        except self._error as error:
            raise VisitError(str(error).splitlines()[0]) from error


class Synthetic:
    """Views without a browser: what is served is fetched and read, and its beacon is sent as the page would."""

    def __init__(self, session: aiohttp.ClientSession, orders: Orders, why: str) -> None:
        """Say `why` there is no browser."""
        self._session, self._orders, self._why = session, orders, why

    @property
    def name(self) -> str:
        """See `Way`."""
        return f"synthetic: {self._why}"[:40]

    async def view(self) -> str:
        """See `Way`."""
        html = await self._get("/")
        found = _CONFIG.search(html)
        if found is None:
            raise VisitError(f"GET {self._orders.page}/: no configuration in the page")
        config = json.loads(found[1])
        script = _HANDLER.search(await self._get(str(config["src"])))
        if script is None:
            raise VisitError(f"GET {config['src']}: no handler times in the bundle")
        times = json.loads(script[1])
        view = uuid.uuid4().hex
        beacon = {
            **{name: config[name] for name in ("page", "env", "bundle", "step")},
            "view": view,
            "trace_id": uuid.uuid4().hex,
            "agent": self.name,
        }
        await self._post("/visit", beacon)
        await self._post("/beacon", {**beacon, "inp_ms": times[config["step"] % len(times)]})
        return view

    async def _get(self, path: str) -> str:
        async with self._session.get(self._orders.page + path) as answer:
            if answer.status != 200:
                raise VisitError(f"GET {self._orders.page}{path}: {answer.status}")
            return await answer.text()

    async def _post(self, path: str, body: Any) -> None:
        async with self._session.post(self._orders.rum + path, json=body) as answer:
            if answer.status != 204:
                raise VisitError(f"POST {self._orders.rum}{path}: {answer.status} {(await answer.text())[:200]}")


def lacking() -> str:
    """Return why there is no browser to visit with; empty when there is one."""
    if os.environ.get("SIM_BROWSER") == "none":
        return "no browser asked for"
    if executable() is None:
        return "no chromium"
    return "" if importlib.util.find_spec("playwright") else "no playwright"


def executable() -> str | None:
    """Return the path of the machine's Chromium."""
    return next(filter(None, map(shutil.which, NAMES)), None)


@asynccontextmanager
async def way(orders: Orders, session: aiohttp.ClientSession, say: Callable[[str, str], None]) -> AsyncIterator[Way]:
    """Yield the best way to make views on this machine."""
    why = lacking()
    if why:
        yield Synthetic(session, orders, why)
        return
    from playwright.async_api import Error, async_playwright

    flags = [*FLAGS, *(("--no-sandbox",) if os.geteuid() == 0 else ())]
    async with async_playwright() as playwright:
        try:
            browser = await playwright.chromium.launch(executable_path=executable(), args=flags, timeout=30_000)
        except Error as error:
            say("note", f"{executable()} does not start: {str(error).splitlines()[0]}")
            yield Synthetic(session, orders, "chromium does not start")
            return
        try:
            yield Browser(browser, orders.page, Error)
        finally:
            await browser.close()


class Visitor:
    """Makes views until it is cancelled."""

    def __init__(
        self, orders: Orders, way: Way, session: aiohttp.ClientSession, say: Callable[[str, str], None]
    ) -> None:
        """`say` takes a word (`note`, `ready`) and a text."""
        self._orders, self._way, self._session, self._say = orders, way, session, say
        self.views = self.lost = 0
        self._after = 0
        self._failed = 0

    async def run(self) -> None:
        """Visit on and on. Raises `VisitError` after `FAILED` views in a row that did not come to their end."""
        loop = asyncio.get_running_loop()
        self._after = int((await self._rows(limit=1))["newest"])
        while True:
            due = loop.time() + self._orders.every_s
            if await self._visit() and self.views == self._orders.views:
                self._say("ready", f"visitor {self._way.name}: {self.views} views at baseline, {self.lost} lost")
            await asyncio.sleep(due - loop.time())

    async def _visit(self) -> bool:
        """Make one view; tell whether it came to its end."""
        try:
            arrived = await self._arrived(await self._way.view())
        except (VisitError, aiohttp.ClientError, TimeoutError, OSError, ValueError, KeyError, TypeError) as error:
            self._failed += 1
            text = f"a view failed: {error or type(error).__name__}"
            if self._failed >= FAILED:
                raise VisitError(f"{self._failed} in a row; {text}") from error
            self._say("note", text)
            return False
        self._failed = 0
        self.views += 1
        if not arrived:
            self.lost += 1
            self._say("note", f"the beacon of a view did not reach the collector within {BEACON_S:g} s")
        return True

    async def _arrived(self, view: str) -> bool:
        """Wait until the collector has the beacon of a view."""
        loop = asyncio.get_running_loop()
        until = loop.time() + BEACON_S
        while loop.time() < until:
            page = await self._rows(limit=500)
            if any(row["view"] == view and row["kind"] == "beacon" for row in page["rows"]):
                self._after = int(page["next"])
                return True
            await asyncio.sleep(0.1)
        return False

    async def _rows(self, limit: int) -> dict[str, Any]:
        query = {"after": str(self._after), "limit": str(limit)}
        async with self._session.get(f"{self._orders.rum}/views", params=query) as answer:
            if answer.status != 200:
                raise VisitError(f"GET {self._orders.rum}/views: {answer.status}")
            page: dict[str, Any] = await answer.json()
            return page


def say(word: str, text: str) -> None:
    """Say one thing to whoever started this process."""
    sys.stdout.write(json.dumps({word: text}) + "\n")
    sys.stdout.flush()


async def _until_input_ends(reader: asyncio.StreamReader) -> None:
    while await reader.read(4096):
        continue


async def main() -> int:
    """Take orders, visit until standard input ends; return the exit code (1: the page cannot be visited)."""
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    line = await reader.readline()
    if not line:
        return 0
    orders = Orders(**json.loads(line))
    timeout = aiohttp.ClientTimeout(total=STEP_S)
    async with aiohttp.ClientSession(timeout=timeout, trust_env=False) as session, way(orders, session, say) as how:
        say("note", f"visitor {how.name}")
        work = asyncio.create_task(Visitor(orders, how, session, say).run())
        ended = asyncio.create_task(_until_input_ends(reader))
        await asyncio.wait({work, ended}, return_when=asyncio.FIRST_COMPLETED)
        if work.done():
            ended.cancel()
            say("note", f"the visitor gives up: {work.exception()}")
            return 1
        work.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await work
        return 0


if __name__ == "__main__":
    raise SystemExit(asyncio.run(main()))
