"""A profile of this very process: py-spy samples it from a child for a moment, and its stacks are the answer.

Only where the kernel lets a child look at its parent (Yama); where not, the answer says so. It reads memory and stops
nothing (`--nonblocking`): a service under load is not made slower by being looked at.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import shutil
import sysconfig
import tempfile
from pathlib import Path
from typing import Annotated

from fastapi import FastAPI, Query
from fastapi.responses import PlainTextResponse

from mbp._asgi import ApiError

RATE = 100  # samples a second
LIMIT = 1024 * 1024  # bytes of a profile
GRACE_S = 5.0
_PR_SET_PTRACER = 0x59616D61


def find_py_spy() -> str | None:
    """Return the path of the py-spy that was installed with this interpreter, else of one on PATH."""
    return shutil.which("py-spy", path=sysconfig.get_path("scripts")) or shutil.which("py-spy")


def let_children_look() -> None:
    """Allow this process's own descendants to read it, and nobody else; where there is no Yama there is no need."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PTRACER, ctypes.c_ulong(os.getpid()), 0, 0, 0)


async def profile(seconds: float) -> str:
    """Return the collapsed stacks of this process over ``seconds``, most samples first come.

    Raises :class:`ApiError`: 501 ``no_profiler``, 503 ``profile_refused`` with what py-spy said.
    """
    binary = find_py_spy()
    if binary is None:
        raise ApiError(501, "no_profiler", "py-spy is not installed beside this interpreter")
    let_children_look()
    with tempfile.TemporaryDirectory(prefix="mbp-profile-") as folder:
        out = Path(folder) / "stacks.txt"
        child = await asyncio.create_subprocess_exec(
            binary, "record", "--pid", str(os.getpid()), "--duration", str(max(1, round(seconds))), "--rate", str(RATE),
            "--format", "raw", "--nonblocking", "--output", str(out),
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        try:
            async with asyncio.timeout(seconds + GRACE_S):
                said, _ = await child.communicate()
        except TimeoutError:
            raise ApiError(503, "profile_refused", f"py-spy took longer than {seconds + GRACE_S:g} s") from None
        finally:
            if child.returncode is None:
                child.kill()
                await child.wait()
        if child.returncode != 0 or not out.exists():
            text = " ".join(said.decode("utf-8", "replace").split())[-300:]
            raise ApiError(503, "profile_refused", f"py-spy ended with {child.returncode}: {text}")
        return out.read_bytes()[:LIMIT].decode("utf-8", "replace")


def add_profile(app: FastAPI) -> None:
    """Add ``POST /profile`` (an admin route: no part of the contract, takes no slot), one profile at a time."""
    under_way = asyncio.Lock()

    @app.post("/profile", include_in_schema=False)
    async def take(seconds: Annotated[float, Query(ge=1, le=10)] = 2.0) -> PlainTextResponse:
        if under_way.locked():
            raise ApiError(409, "profile_under_way", "one profile at a time")
        async with under_way:
            return PlainTextResponse(await profile(seconds))
