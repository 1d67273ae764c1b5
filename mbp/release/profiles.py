"""Profiles of the release that serves, kept in a few files: what the process did when somebody pulled the lever."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

from fastapi import FastAPI, HTTPException
from fastapi import Path as Part
from fastapi.responses import JSONResponse, PlainTextResponse
from pydantic import Field

from mbp._asgi import ApiError
from mbp._routes import Reason
from mbp._wire import Wire
from mbp.release.controller import Controller
from mbp.release.proxy import NoAnswer, Upstream

KEPT = 8
_NAME = re.compile(r"(\d{6})-(stable|candidate)\.txt")


class ProfileBody(Wire):
    """A request to profile the release that serves most, for so long."""

    seconds: Annotated[float, Field(ge=1, le=10)] = 2.0
    reason: Reason = ""


class Profiles:
    """The files of one folder, oldest first out."""

    def __init__(self, folder: Path, kept: int = KEPT) -> None:
        """Use ``folder``, made when it is first needed."""
        self._folder, self._kept = folder, kept

    def list(self) -> list[dict[str, object]]:
        """Return id, release and size (bytes) of each profile, newest first."""
        found = [(path, _NAME.fullmatch(path.name)) for path in self._folder.glob("*.txt")]
        rows = [(name[1], name[2], path.stat().st_size) for path, name in found if name]
        return [{"id": number, "release": release, "bytes": size} for number, release, size in sorted(rows)[::-1]]

    def add(self, release: str, text: str) -> str:
        """Keep a profile and return its id."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        known = self.list()
        number = f"{int(str(known[0]['id'])) + 1 if known else 1:06d}"
        new = self._folder / f"{number}-{release}.new"
        new.write_text(text, encoding="utf-8")
        new.replace(new.with_suffix(".txt"))
        for old in self.list()[self._kept :]:
            (self._folder / f"{old['id']}-{old['release']}.txt").unlink(missing_ok=True)
        return number

    def read(self, number: str) -> str | None:
        """Return a profile, None when there is none of that id."""
        for path in self._folder.glob(f"{number}-*.txt"):
            return path.read_text(encoding="utf-8")
        return None


def add_profiles(app: FastAPI, controller: Controller, upstream: Upstream, profiles: Profiles) -> None:
    """Add ``POST /release/profile`` and the list and text of what is kept."""

    @app.post("/release/profile")
    async def take(body: ProfileBody) -> JSONResponse:
        release = "candidate" if controller.state.candidate >= controller.state.stable else "stable"
        try:
            answer = await upstream.send(release, "POST", f"/profile?seconds={body.seconds:g}", {}, b"")
        except NoAnswer as error:
            raise ApiError(502, "no_profile", str(error)) from None
        text = answer.body.decode("utf-8", "replace")
        if answer.status != 200:
            raise ApiError(502, "no_profile", f"release {release} answered {answer.status}: {text[:300]}")
        return JSONResponse({"id": profiles.add(release, text), "release": release, "bytes": len(answer.body)}, 201)

    @app.get("/release/profiles")
    async def listed() -> JSONResponse:
        rows = profiles.list()
        return JSONResponse({"profiles": rows, "any": bool(rows)})

    @app.get("/release/profiles/{number}")
    async def one(number: Annotated[str, Part(pattern=r"^\d{6}$")]) -> PlainTextResponse:
        text = profiles.read(number)
        if text is None:
            raise HTTPException(404, f"there is no profile {number}")
        return PlainTextResponse(text)
