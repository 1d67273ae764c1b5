"""Instant queries through prometheus-api-client, tamed.

The library retries a dead server for 6 s, waits without limit, follows redirects and reads bodies of any size. Here it
works over a session of ours that does none of that. It is synchronous: call it in a thread, one call at a time.
"""

from __future__ import annotations

import ssl
import time
from typing import Any, Literal
from urllib.parse import urlsplit

import requests
from prometheus_api_client import PrometheusConnect
from requests.adapters import HTTPAdapter
from urllib3.util.retry import Retry

from expectations._samples import BadQuery, single
from sim.observation import CannotLook
from sim.secret import Secrets
from sim.target import Auth
from sim.wire import CONNECT_S, MAX_BODY, TOTAL_S, Failure, check_url, header, references, tls

#: All queries of one look together; a look that takes longer is no look.
LOOK_S = 5.0


class _Adapter(HTTPAdapter):
    """Carries the TLS settings of the profile."""

    def __init__(self, context: ssl.SSLContext | None) -> None:
        self._context = context
        super().__init__(max_retries=Retry(total=0))

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> Any:
        if self._context is not None:
            kwargs["ssl_context"] = self._context
        return super().init_poolmanager(*args, **kwargs)

    def cert_verify(self, conn: Any, url: Any, verify: Any, cert: Any) -> None:
        """Leave the trust to our context; `requests` would lay its own bundle over it."""
        if self._context is None:
            super().cert_verify(conn, url, verify, cert)  # type: ignore[no-untyped-call]


class _TooLarge(requests.RequestException):
    """An answer without end."""


class _Session(requests.Session):
    """Refuses redirects, statuses other than 200, slow answers and large ones."""

    def request(self, method: Any, url: Any, *args: Any, **kwargs: Any) -> requests.Response:
        kwargs.update(allow_redirects=False, stream=True, timeout=(CONNECT_S, TOTAL_S))
        start = time.monotonic()
        response = super().request(method, url, *args, **kwargs)
        body = bytearray()
        try:
            for chunk in response.iter_content(65536):
                body += chunk
                if len(body) > MAX_BODY:
                    raise _TooLarge(f"the answer is larger than {MAX_BODY} bytes")
                if time.monotonic() - start > TOTAL_S:
                    raise requests.Timeout(f"no whole answer within {TOTAL_S:g} s")
        finally:
            response.close()
        response._content = bytes(body)  # what `response.content` would have read, had it a limit
        if response.status_code != 200:
            raise _Refused(response.status_code, bytes(body))
        return response


class _Refused(Exception):
    def __init__(self, status: int, body: bytes) -> None:
        super().__init__(status)
        self.status = status
        self.text = " ".join(body[:2000].decode("utf-8", "replace").split())


class Queries:
    """Asks one Prometheus. Not thread-safe."""

    def __init__(self, url: str, auth: Auth | None, secrets: Secrets) -> None:
        """Take the address and what authenticates. Raises `ValueError`, `SecretMissing`."""
        self._url, self._auth, self._secrets = check_url(url), auth, secrets
        self._session = _Session()
        self._session.trust_env = False
        self._prometheus = PrometheusConnect(
            self._url, headers=header(auth, secrets), retry=Retry(total=0), timeout=TOTAL_S, session=self._session
        )
        # The library has mounted an adapter of its own for this URL; ours is longer by the slash and so goes first.
        base = urlsplit(self._url)
        context = tls(auth, secrets) if base.scheme == "https" else None
        self._session.mount(self._url + "/", _Adapter(context))

    def close(self) -> None:
        """Close the connections."""
        self._session.close()

    def ask(self, query: str) -> list[Any]:
        """Return the raw result of an instant query: ``[time, text]`` for a scalar, else a list of series.

        Raises `BadQuery` when this query is at fault, `CannotLook` when the server is.
        """
        where = f"GET {self._url}/api/v1/query"
        try:
            result = self._prometheus.custom_query(query)
        except _Refused as refused:
            text = self._secrets.redact(refused.text)[:200]
            if refused.status in (400, 422):
                raise BadQuery(f"{refused.status} {text}") from refused
            cure = f" ({references(self._auth)})" if refused.status in (401, 403) else ""
            kind: Literal["refused", "status"] = "refused" if cure else "status"
            raise CannotLook(f"{where}: {refused.status} {text}{cure}") from Failure(kind, refused.status)
        except (_TooLarge, requests.exceptions.InvalidJSONError) as error:  # somebody answers, and it is no Prometheus
            raise CannotLook(self._secrets.redact(f"{where}: {_why(error)}")) from Failure("content")
        except requests.RequestException as error:
            raise CannotLook(self._secrets.redact(f"{where}: {_why(error)}")) from Failure("unreachable")
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise CannotLook(f"{where}: the answer is not one of a Prometheus ({error!r:.100})") from error
        if not isinstance(result, list):
            raise CannotLook(f"{where}: the answer is not one of a Prometheus (no list of results)")
        return result

    def look(self, queries: dict[str, str]) -> dict[str, tuple[float | None, str | None]]:
        """Return value and, where it is None, reason of each query by name. Raises `CannotLook`."""
        until = time.monotonic() + LOOK_S
        found: dict[str, tuple[float | None, str | None]] = {}
        for name, query in queries.items():
            if time.monotonic() > until:
                raise CannotLook(f"GET {self._url}/api/v1/query: {len(queries)} queries took over {LOOK_S:g} s")
            try:
                found[name] = single(self.ask(query))
            except BadQuery as error:
                found[name] = (None, str(error))
        return found

    def time(self) -> float:
        """Return the server's clock in epoch seconds. Raises `CannotLook`."""
        try:
            value, reason = single(self.ask("time()"))
        except BadQuery as error:
            raise CannotLook(f"GET {self._url}/api/v1/query: time() is refused: {error}") from error
        if value is None:
            raise CannotLook(f"GET {self._url}/api/v1/query: time() has no value: {reason}")
        return value


def _why(error: requests.RequestException) -> str:
    """Return the cause in a few words: the library's own text repeats the whole query, twice."""
    text = str(error)
    if isinstance(error, requests.Timeout) or "timed out" in text:
        return f"no answer within {TOTAL_S:g} s"
    if "Connection refused" in text:
        return "connection refused"
    if isinstance(error, _TooLarge):
        return text
    if isinstance(error, requests.exceptions.InvalidJSONError):
        return f"200, but the body is no JSON ({text})"
    return f"{type(error).__name__}: {text}"[:200]
