"""The public entry: passes `/v1/*` to a release and its answer back, unchanged but for what belongs to one hop."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import aiohttp
from yarl import URL

from mbp._service import CLIENT_KEEP_ALIVE_S

ANSWER_LIMIT = 4 * 1024 * 1024  # bytes
CONNECTIONS = 1024  # a release may hold 330 in its queue and 32 in its slots; more than that is turned away by it
HOP = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "host",
        "content-length",
        "content-encoding",
        "accept-encoding",
        "date",
        "server",
    }
)


class NoAnswer(Exception):
    """The release gave no usable answer; the text says how."""


@dataclass(frozen=True, slots=True)
class Passed:
    """What a release answered."""

    status: int
    headers: dict[str, str]
    body: bytes


class Upstream(Protocol):
    """Whatever passes a request on to a release."""

    async def open(self) -> None:
        """Make ready."""

    async def close(self) -> None:
        """Let go."""

    async def send(self, release: str, method: str, target: str, headers: dict[str, str], body: bytes) -> Passed:
        """Return the release's answer; raises :class:`NoAnswer`."""


class HttpUpstream:
    """Passes requests on over HTTP, every wait bounded; nothing is retried, for a swap is not to be made twice."""

    def __init__(self, urls: dict[str, str], *, timeout_s: float = 10.0, connect_s: float = 1.0) -> None:
        """Remember where the releases are (base URLs by name)."""
        self._urls = {name: url.rstrip("/") for name, url in urls.items()}
        self._timeout = aiohttp.ClientTimeout(total=timeout_s, sock_connect=connect_s)
        self._session: aiohttp.ClientSession | None = None

    async def open(self) -> None:
        """Make the connection pool."""
        connector = aiohttp.TCPConnector(limit=CONNECTIONS, keepalive_timeout=CLIENT_KEEP_ALIVE_S)
        self._session = aiohttp.ClientSession(
            connector=connector,
            timeout=self._timeout,
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
            auto_decompress=False,
            skip_auto_headers=("User-Agent", "Content-Type"),
        )

    async def close(self) -> None:
        """Close the pool."""
        if self._session is not None:
            await self._session.close()

    async def send(self, release: str, method: str, target: str, headers: dict[str, str], body: bytes) -> Passed:
        """Return the release's answer; raises :class:`NoAnswer` naming what went wrong."""
        if self._session is None:
            raise RuntimeError("the upstream is not open")
        try:
            async with self._session.request(
                method,
                URL(self._urls[release] + target, encoded=True),
                headers=headers,
                data=body or None,
                allow_redirects=False,
            ) as answer:
                content = bytearray()
                async for part in answer.content.iter_any():
                    content += part
                    if len(content) > ANSWER_LIMIT:
                        raise NoAnswer(f"release {release} answered over {ANSWER_LIMIT} bytes")
                kept = {name: value for name, value in answer.headers.items() if name.lower() not in HOP}
                return Passed(answer.status, kept, bytes(content))
        except TimeoutError:
            raise NoAnswer(f"release {release} did not answer in time") from None
        except (aiohttp.ClientError, ValueError) as error:
            raise NoAnswer(f"release {release} does not answer: {type(error).__name__}") from None
