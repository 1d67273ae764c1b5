"""`docs/write-a-fault.md`: its exercise, run through the command line against the page's own shop."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from sim import machine
from tests.test_write_a_fault import ROOT, followed


def _shop(folder: Path, **how: Any) -> Any:
    """Return the shop of the page's test."""
    sys.path.insert(0, str(folder))
    try:
        spec = importlib.util.spec_from_file_location("page_shop", folder / "tests" / "test_worker_pause.py")
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(folder))
        for name in [name for name in sys.modules if name.partition(".")[0] == "shopfaults"]:
            del sys.modules[name]
    return module.Shop(**how)


async def _sim(folder: Path, *words: str) -> tuple[int | None, str]:
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)]),
        machine.VARIABLE: str(folder / "machine"),
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "sim.cli", *words,
        cwd=folder, env=environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    out, _ = await process.communicate()
    return process.returncode, out.decode()


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("how", "code", "told"),
    [({}, 0, "PASSED"), ({"alarm_at": 10**9}, 1, "FAILED"), ({"deaf": True}, 4, "INCONCLUSIVE")],
)
def test_the_exercise_of_the_page(tmp_path: Path, how: dict[str, Any], code: int, told: str) -> None:
    """It passes; with a deaf alarm it fails, with a worker that does not stand still it is inconclusive."""
    followed(tmp_path)
    shop = _shop(tmp_path, **how)

    async def main() -> tuple[int | None, str]:
        async with shop.serve() as url:
            profile = tmp_path / "scenarios" / "targets" / "shop.yaml"
            profile.write_text(profile.read_text().replace("http://127.0.0.1:8080", url))
            checked = await _sim(tmp_path, "check", "scenarios/worker.yaml", "--target", "shop")
            assert checked[0] == 0, checked[1]
            assert (await _sim(tmp_path, "plan", "stalled_worker", "--target", "shop"))[0] == 0
            return await _sim(tmp_path, "run", "stalled_worker", "--target", "shop")

    ended, said = asyncio.run(main())
    assert (ended, told in said) == (code, True), said
    assert shop.paused_by is None
