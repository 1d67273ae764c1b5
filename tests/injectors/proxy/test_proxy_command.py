"""``sim proxy``: what it is told, what it says, and how it ends."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from injectors._proxy import command, config
from sim.refusal import Refusal, Usage

ROOT = Path(__file__).resolve().parents[3]


def started(*arguments):
    """Start the proxy as a stack does."""
    command = [sys.executable, "-m", "injectors._proxy", *arguments]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def ended(*arguments):
    """Return (exit code, what was printed, what was said of errors) of one that ends by itself."""
    process = started(*arguments)
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_it_says_when_it_is_ready_and_ends_when_it_is_told(tmp_path, how):
    """One line; the API and the proxies of file and command line are there; then code 0, and nobody listens."""
    file = tmp_path / "proxies.json"
    slow = {"type": "latency", "attributes": {"latency": 5}, "ttl_s": 60}
    file.write_text(json.dumps([{"name": "a", "listen": "127.0.0.1:0", "upstream": "127.0.0.1:9", "toxics": [slow]}]))
    arguments = (
        "--listen",
        "127.0.0.1:0",
        "--seed",
        "7",
        "--config",
        str(file),
        "--proxy",
        "b=localhost:0=127.0.0.1:9",
    )
    process = started(*arguments)
    try:
        line = process.stdout.readline()
        [url] = re.findall(r"^sim proxy: ready at (http://127\.0\.0\.1:\d+), 2 proxies, seed 7$", line)
        with urllib.request.urlopen(f"{url}/proxies", timeout=30) as answer:
            shown = json.load(answer)
        assert {name: (each["enabled"], len(each["toxics"])) for name, each in shown.items()} == {
            "a": (True, 1),
            "b": (True, 0),
        }
        port = int(shown["b"]["listen"].rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port), timeout=30):
            process.send_signal(how)
            out, err = process.communicate(timeout=60)
        assert (process.returncode, out, err) == (0, "", "")
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), timeout=30)
    finally:
        process.kill()
        process.communicate()


def test_a_stderr_that_nobody_reads_holds_up_nothing(monkeypatch):
    """A pipe takes what fits into it, and is not waited for; one whose reader has gone is no error."""
    reading, writing = os.pipe()
    pipe = os.fdopen(writing, "w")
    monkeypatch.setattr(sys, "stderr", pipe)
    for _ in range(2000):  # more than any pipe holds
        command._tell("x" * 2000)
    got = os.read(reading, 1 << 20).splitlines()
    os.close(reading)
    command._tell("nobody is there")
    with contextlib.suppress(BrokenPipeError):
        pipe.close()
    assert {len(line) for line in got} == {1011}


def test_an_address_that_is_taken_ends_it_with_4():
    """The API's, or a proxy's; says which."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        busy = f"127.0.0.1:{taken.getsockname()[1]}"
        api = ended("--listen", busy)
        proxy = ended("--listen", "127.0.0.1:0", "--proxy", f"a={busy}=127.0.0.1:9")
    text = f"listen tcp {busy}: bind: address already in use"
    assert api == (
        4,
        "",
        f"error: the API: {text}; another process listens there: end it, or choose another port (0: any free one)\n",
    )
    assert proxy == (4, "", f"error: proxy 'a': {text}\n")


def test_what_is_wrong_on_the_command_line(tmp_path):
    """Exit code 3 for files and addresses."""
    none = tmp_path / "none.json"
    empty = tmp_path / "token"
    empty.write_text("\n")
    assert ended("--config", str(none))[::2] == (
        3,
        f"error: {none}: cannot be read: [Errno 2] No such file or directory: '{none}'\n",
    )
    assert ended("--listen", "here")[::2] == (
        3,
        "error: --listen here: address here: missing port in address; write host:port\n",
    )
    assert ended("--token-file", str(empty))[::2] == (
        3,
        f"error: {empty}: holds no token: write one line of text that nobody can guess\n",
    )


@pytest.mark.parametrize(
    "text, wrong",
    [
        ("[", "{file}:1:2: not JSON: Expecting value"),
        ('[\n  {"name": "a",}\n]', "{file}:2:16: not JSON: Expecting property name enclosed in double quotes"),
        (
            '{"name": "a"}',
            "{file}: expected a JSON array of proxies, such as"
            ' [{{"name": "db", "listen": "127.0.0.1:5433", "upstream": "127.0.0.1:5432"}}]',
        ),
        ('[{"name": "a"}]', "{file}: [0] 'a': missing required field: upstream"),
        (
            '[{"name": "a", "upstream": "db:1"}, 5]',
            "{file}: [1]: json: cannot unmarshal number into Go value of type toxiproxy.Proxy",
        ),
        (
            '[{"name": "a", "upstream": "db"}]',
            "{file}: [0] 'a': address db: missing port in address; write host:port, such as 127.0.0.1:5432",
        ),
        (
            '[{"name": "a", "upstream": "db:1", "toxics": [{"type": "latency", "attributes": {"latency": 0.5}}]}]',
            "{file}: [0] 'a': json: cannot unmarshal number 0.5 into Go struct field .latency of type int64",
        ),
        (
            '[{"name": "a", "upstream": "db:1"}, {"name": "a", "upstream": "db:1"}]',
            "{file}: [1]: the name 'a' is [0]'s already; give each proxy a name of its own",
        ),
        (
            '[{"name": "a", "upstream": "db:1", "toxics": [{"type": "latency", "toxicity": 1' + "0" * 400 + "}]}]",
            "{file}: [0] 'a': toxicity must be from 0 to 1, got 1" + "0" * 39,
        ),
        (
            "[" + "1" * 5000 + "]",
            "{file}: not JSON that can be used: Exceeds the limit (4300 digits) for integer string conversion: value"
            " has 5000 digits; use sys.set_int_max_str_digits() to increase the limit",
        ),
    ],
)  # fmt: skip
def test_a_file_of_proxies_that_cannot_be_used(tmp_path, text, wrong):
    """The place and the cure."""
    file = tmp_path / "proxies.json"
    file.write_text(text)
    with pytest.raises(Refusal) as refused:
        config.load(file)
    assert (str(refused.value), refused.value.exit_code) == (wrong.format(file=file), 3)


def test_proxies_on_the_command_line():
    """NAME=LISTEN=UPSTREAM, no more and no less."""
    assert config.given("a=127.0.0.1:1=db:2") == {"name": "a", "listen": "127.0.0.1:1", "upstream": "db:2"}
    for text, wrong in (
        ("a", "expected NAME=LISTEN=UPSTREAM, such as db=127.0.0.1:5433=127.0.0.1:5432"),
        ("a==b:1", "expected NAME=LISTEN=UPSTREAM, such as db=127.0.0.1:5433=127.0.0.1:5432"),
        ("a=x=b:1", "address x: missing port in address; write host:port"),
    ):
        with pytest.raises(Usage) as refused:
            config.given(text)
        assert str(refused.value) == f"--proxy {text}: {wrong}"


def test_help_imports_no_server():
    """The verb's help loads no HTTP and no event loop; its one-line help is there."""
    code = (
        "import sys\n"
        "from click.testing import CliRunner\n"
        "from injectors._commands.proxy import command\n"
        "assert CliRunner().invoke(command, ['--help']).exit_code == 0\n"
        "print(sorted({'aiohttp', 'asyncio', 'yaml', 'pydantic'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("[]\n", "")
    from sim.cli import _verbs

    assert _verbs()["proxy"][0] == "injectors._commands.proxy"
    assert os.access(_verbs()["proxy"][1], os.R_OK)
