"""The decision API's way to the engine: one pooled client, every wait bounded, an outage told apart from a refusal."""

from __future__ import annotations

from dataclasses import dataclass

import aiohttp

from mbp._asgi import ApiError
from mbp._service import CLIENT_KEEP_ALIVE_S
from mbp._trace import outgoing

ANSWER_LIMIT = 4 * 1024 * 1024  # bytes; no answer of the engine is near it
CONNECTIONS = 128


@dataclass(frozen=True, slots=True)
class Answer:
    """What the engine answered."""

    status: int
    body: bytes


class EngineClient:
    """Asks the engine; call :meth:`open` on the event loop before and :meth:`close` after."""

    def __init__(self, base_url: str, *, timeout_s: float = 5.0, connect_s: float = 1.0) -> None:
        """Remember where the engine is and how long to wait for it."""
        self._base = base_url.rstrip("/")
        self._timeout = aiohttp.ClientTimeout(total=timeout_s, connect=connect_s)
        self._session: aiohttp.ClientSession | None = None

    async def open(self) -> None:
        """Make the connection pool."""
        connector = aiohttp.TCPConnector(limit=CONNECTIONS, keepalive_timeout=CLIENT_KEEP_ALIVE_S)
        # No cookies, no proxy from the environment: what is on loopback is asked on loopback.
        self._session = aiohttp.ClientSession(
            connector=connector, timeout=self._timeout, cookie_jar=aiohttp.DummyCookieJar(), trust_env=False
        )

    async def close(self) -> None:
        """Close the pool."""
        if self._session is not None:
            await self._session.close()

    async def ask(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> Answer:
        """Return the engine's answer, whatever its status; nothing is retried, for a swap is not to be made twice.

        Raises :class:`ApiError`: 502 ``engine_unreachable`` when there is no connection or it broke, 503
        ``engine_timeout`` when there is no answer in time; then a swap may have been made, and asking again with the
        same Idempotency-Key is safe.
        """
        if self._session is None:
            raise RuntimeError("the engine client is not open")
        sent = {**outgoing(), **(headers or {})}
        if body is not None:
            sent["Content-Type"] = "application/json"
        try:
            async with self._session.request(method, self._base + path, data=body, headers=sent) as response:
                content = await response.content.read(ANSWER_LIMIT + 1)
                while not response.content.at_eof() and len(content) <= ANSWER_LIMIT:
                    content += await response.content.read(ANSWER_LIMIT + 1 - len(content))
                if len(content) > ANSWER_LIMIT:
                    raise ApiError(502, "engine_answer_too_large", f"the engine answered over {ANSWER_LIMIT} bytes")
                return Answer(response.status, content)
        except TimeoutError:
            raise ApiError(
                503, "engine_timeout", "the engine did not answer in time; ask again with the same Idempotency-Key"
            ) from None
        except aiohttp.ClientError as error:
            raise ApiError(502, "engine_unreachable", f"the engine does not answer: {type(error).__name__}") from None
