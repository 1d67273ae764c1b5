"""The components that are deployed: each is handed on to the service that serves it, over HTTP."""

from __future__ import annotations

import json

import aiohttp

from mbp._asgi import ApiError
from mbp._service import problem

WAIT_S = 5.0
_ANSWER_LIMIT = 64 * 1024
_PATHS = {"dec": "/release/deploys", "fe": "/fe/deploys"}


class HttpComponent:
    """A service that takes `POST PATH {"version"}`. `session` is closed by whoever opened it."""

    def __init__(self, session: aiohttp.ClientSession, name: str, url: str) -> None:
        """Hand on the deploys of the component `name` to `url`, the whole address."""
        self._session, self._name, self._url = session, name, url

    async def deploy(self, version: str, key: str | None) -> None:
        """Hand on a deploy, once. Raises :class:`ApiError`."""
        headers = {} if key is None else {"Idempotency-Key": key}
        try:
            async with self._session.post(
                self._url, json={"version": version}, headers=headers, allow_redirects=False,
                timeout=aiohttp.ClientTimeout(total=WAIT_S),
            ) as answer:  # fmt: skip
                body = await answer.content.read(_ANSWER_LIMIT)
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            text = f"{self._name} does not answer: {type(error).__name__}"
            raise ApiError(503, "component_unreachable", text) from None
        if 200 <= answer.status < 300:
            return
        if not 400 <= answer.status < 500:
            raise ApiError(503, "component_unreachable", f"{self._name} answered {answer.status}")
        said = _said(body)
        raise ApiError(answer.status, said["error"], f"{self._name}: {said['detail']}")


def _said(body: bytes) -> dict[str, str]:
    """Return the error in an answer, in the platform's own shape."""
    try:
        found = json.loads(body)
    except ValueError:
        found = None
    if isinstance(found, dict) and isinstance(found.get("error"), str):
        return problem(found["error"], str(found.get("detail", "")))
    return problem("refused", "it gave no reason")


def components(session: aiohttp.ClientSession, **urls: str | None) -> dict[str, HttpComponent]:
    """Return what serves the components, by the base URL of each (`dec`, `fe`); None: nobody serves it."""
    return {name: HttpComponent(session, name, url + _PATHS[name]) for name, url in urls.items() if url is not None}
