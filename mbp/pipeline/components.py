"""The components that are deployed: each is handed on to the service that serves it, over HTTP."""

from __future__ import annotations

import json

import aiohttp

from mbp._service import problem
from mbp.pipeline.pipeline import Refused

WAIT_S = 5.0
_ANSWER_LIMIT = 64 * 1024


class HttpComponent:
    """A service that takes `POST PATH {"version"}`. `session` is closed by whoever opened it."""

    def __init__(self, session: aiohttp.ClientSession, name: str, url: str) -> None:
        """Hand on the deploys of the component `name` to `url`, the whole address."""
        self._session, self._name, self._url = session, name, url

    async def deploy(self, version: str, key: str | None) -> None:
        """Hand on a deploy, once. Raises :class:`Refused`."""
        headers = {} if key is None else {"Idempotency-Key": key}
        try:
            async with self._session.post(
                self._url, json={"version": version}, headers=headers, allow_redirects=False,
                timeout=aiohttp.ClientTimeout(total=WAIT_S),
            ) as answer:  # fmt: skip
                body = await answer.content.read(_ANSWER_LIMIT)
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            text = f"{self._name} does not answer: {type(error).__name__}"
            raise Refused(503, "component_unreachable", text) from None
        if 200 <= answer.status < 300:
            return
        if not 400 <= answer.status < 500:
            raise Refused(503, "component_unreachable", f"{self._name} answered {answer.status}")
        said = _said(body)
        raise Refused(answer.status, said["error"], f"{self._name}: {said['detail']}")


def _said(body: bytes) -> dict[str, str]:
    """Return the error in an answer, in the platform's own shape."""
    try:
        found = json.loads(body)
    except ValueError:
        found = None
    if isinstance(found, dict) and isinstance(found.get("error"), str):
        return problem(found["error"], str(found.get("detail", "")))
    return problem("refused", "it gave no reason")
