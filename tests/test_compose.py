"""The stack of containers as it is written down: what every service keeps to, and what it shares with the local one."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from injectors._docker.engine import Engine
from mbp.hooks import generate
from mbp.hooks.table import TableError
from sim.injector import Site
from sim.secret import Secrets
from sim.stack import spec
from sim.target import Door
from tests.conftest import ROOT

COMPOSE = ROOT / "compose"
FILE = yaml.safe_load((COMPOSE / "docker-compose.yml").read_text())
OFFLINE = yaml.safe_load((COMPOSE / "docker-compose.offline.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = FILE["services"]
STACK, _ = spec.load(COMPOSE / "docker.yaml")
LOCAL, _ = spec.load(COMPOSE / "local.yaml")

#: Services that local.yaml does not have as a process of its own.
ONLY_HERE = {"toxiproxy", "reaper", "debezium"}
#: Processes of local.yaml that are something else here.
ONLY_LOCAL = {"proxy"}
PUBLIC = {
    "prometheus": "prom/prometheus",
    "alertmanager": "prom/alertmanager",
    "postgres": "postgres",
    "toxiproxy": "ghcr.io/shopify/toxiproxy",
    "debezium": "quay.io/debezium/server",
}


def broken(service: dict[str, Any]) -> set[str]:
    """Return the rules that a service does not keep."""
    held = {
        "label": service.get("labels", {}).get("sim.environment") == "sim-compose",
        "read-only root": service.get("read_only") is True,
        "no capability": service.get("cap_drop") == ["ALL"] and "cap_add" not in service,
        "no new privilege": service.get("security_opt") == ["no-new-privileges:true"],
        "not privileged": not {"privileged", "network_mode", "pid", "ipc", "devices"} & set(service),
        "no root": re.fullmatch(r"[1-9]\d*:[1-9]\d*", service.get("user", "")) is not None,
        "loopback": all(re.match(r"127\.0\.0\.1:(\$\{SIM_PORT_[A-Z_]+:-\d+\}):(\d+|\1)$", port)
                        for port in service.get("ports", [])),
        "no socket": not any(re.search(r"docker\.sock|/run/docker|/var/run(?!/postgresql)", str(mount))
                             for mount in service.get("volumes", [])),
        "host files read-only": all(str(mount).endswith(":ro") for mount in service.get("volumes", [])
                                    if str(mount).startswith((".", "/", "$"))),
        "limits": all(service.get(key) for key in ("mem_limit", "pids_limit", "cpu_shares")),
        "health check": "healthcheck" in service,
        "bounded log": service.get("logging", {}).get("options", {}).get("max-size") is not None,
        "restarts end": service.get("restart") == "on-failure:5",
    }  # fmt: skip
    return {rule for rule, kept in held.items() if not kept}


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_keeps_the_rules(name: str):
    """Each rule, of each service; a single program without a shell has nothing to make a health check with."""
    assert broken(SERVICES[name]) == ({"health check"} if name == "toxiproxy" else set())


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"labels": {}}, "label"),
        ({"read_only": False}, "read-only root"),
        ({"cap_add": ["NET_ADMIN"]}, "no capability"),
        ({"security_opt": []}, "no new privilege"),
        ({"privileged": True}, "not privileged"),
        ({"user": "0:0"}, "no root"),
        ({"ports": ["8080:8080"]}, "loopback"),
        ({"ports": ["0.0.0.0:${SIM_PORT_FE:-0}:8080"]}, "loopback"),
        ({"volumes": ["/var/run/docker.sock:/var/run/docker.sock:ro"]}, "no socket"),
        ({"volumes": ["./x:/x"]}, "host files read-only"),
        ({"mem_limit": None}, "limits"),
        ({"logging": {}}, "bounded log"),
        ({"restart": "always"}, "restarts end"),
    ],
)
def test_each_rule_can_be_broken(change: dict[str, Any], rule: str):
    """A service that breaks a rule is found out, and only for that."""
    assert broken({**SERVICES["engine"], **change}) == {rule}


def test_public_images_are_pinned_by_tag_and_digest_variable():
    """A public image has an exact tag, and a variable that nails it to a digest; our own is never pulled."""
    for name, service in SERVICES.items():
        if name not in PUBLIC:
            assert (service["image"], service["pull_policy"]) == ("${SIM_MBP_IMAGE:-sim-mbp:local}", "never")
            continue
        variable = f"{name.upper()}_DIGEST"
        pattern = rf"{re.escape(PUBLIC[name])}:v?\d+\.\d+[\w.-]*\$\{{{variable}:\+@\}}\$\{{{variable}:-\}}"
        assert re.fullmatch(pattern, service["image"]), service["image"]


def test_the_offline_file_changes_images_and_nothing_else():
    """Every public image but Debezium's has a stand-in that is built here, and is never asked of a registry."""
    wanted = {name: {"image": f"sim-{name}:local", "pull_policy": "never"} for name in PUBLIC if name != "debezium"}
    assert {"services": wanted} == OFFLINE
    images = {folder.name for folder in (COMPOSE / "images").iterdir() if (folder / "Dockerfile").is_file()}
    assert images == {*wanted, "mbp"}


def test_debezium_is_a_profile_with_its_configuration():
    """It is not started unless asked for, and reads the hot tables through a slot of its own."""
    assert {name for name, service in SERVICES.items() if "profiles" in service} == {"debezium"}
    text = (COMPOSE / "debezium/application.properties").read_text()
    lines = dict(line.split("=", 1) for line in text.splitlines() if line and not line.startswith("#"))
    source = {key.removeprefix("debezium.source."): lines[key] for key in lines if key.startswith("debezium.source.")}
    assert source["connector.class"] == "io.debezium.connector.postgresql.PostgresConnector"
    assert (source["plugin.name"], source["slot.name"]) == ("pgoutput", "debezium")
    link = next(each for each in links() if each["name"] == "postgres_cdc")
    assert (source["database.hostname"], link["listen"]) == ("toxiproxy", "${stack.link_postgres_cdc}")
    told = SERVICES["debezium"]["environment"]["DEBEZIUM_SOURCE_DATABASE_PORT"]
    assert told == "${SIM_PORT_LINK_POSTGRES_CDC:-15433}"
    assert lines["debezium.sink.type"] == "http"


def links() -> list[dict[str, Any]]:
    """Return the proxies that Toxiproxy starts with."""
    found: list[dict[str, Any]] = json.loads((ROOT / "mbp/ops/containers/toxiproxy.json").read_text())
    return found


def test_the_links_lead_through_the_proxy():
    """Each link listens where the host sees it by the same number, leads to a service, and somebody is told of it."""
    assert isinstance(STACK, spec.ComposeSpec)
    told = json.dumps({name: service for name, service in SERVICES.items() if name != "toxiproxy"})
    told += STACK.inside["engine_metrics_addr"]
    published = {port for port in SERVICES["toxiproxy"]["ports"] if "_LINK_" in port}
    assert [each["name"] for each in links()] == ["postgres_api", "postgres_cdc", "sinks", "engine_metrics"]
    for each in links():
        name = f"link_{each['name']}"
        assert (each["listen"], each["enabled"]) == (f"${{stack.{name}}}", True)
        assert STACK.inside[name] == f"0.0.0.0:${{port.{name}}}"
        assert each["upstream"].split(":")[0] in SERVICES
        assert f"toxiproxy:${{SIM_PORT_{name.upper()}:-" in told or f"toxiproxy:${{port.{name}}}" in told
        (port,) = (port for port in published if name.upper() in port)
        published.discard(port)
    assert published == set()


def test_both_stacks_have_the_same_parts():
    """Every process of the local stack is a service here, with the same doors, exports, gates and past."""
    assert isinstance(LOCAL, spec.Spec)
    assert set(SERVICES) - ONLY_HERE == set(LOCAL.processes) - ONLY_LOCAL
    lacking = {name for name in LOCAL.exports if not name.endswith("_addr")} - set(STACK.exports)
    assert lacking <= {"processes"}
    assert [gate for gate in STACK.ready if gate in LOCAL.ready] == list(LOCAL.ready)
    assert {name: (once.command, once.result) for name, once in STACK.once.items()} == {
        name: (once.command, once.result) for name, once in LOCAL.once.items()
    }


def test_the_configuration_comes_from_the_same_templates():
    """Prometheus and Alertmanager are told the same on both; here with the names that the containers see."""
    shared = {item.from_ for item in LOCAL.render}
    assert shared == {item.from_ for item in STACK.render if "ops/prom/" in item.from_}
    asked = {
        name
        for path in (ROOT / "mbp/ops/prom").glob("*.y*ml")
        for name in re.findall(r"\$\{stack\.(\w+)\}", path.read_text())
    }
    assert asked - set(STACK.inside) == set()
    assert all("127.0.0.1" not in value for value in STACK.inside.values())


@pytest.mark.parametrize("name", sorted(set(SERVICES) - ONLY_HERE))
def test_both_stacks_tell_a_service_the_same(name: str):
    """A service gets the options that the process gets; a place (URL, port, folder) may read otherwise."""
    assert isinstance(LOCAL, spec.Spec)
    process = LOCAL.processes[name]
    here = SERVICES[name].get("environment", {})
    assert here.get("SIM_FAULTS") == process.env.get("SIM_FAULTS")
    if name in ("prometheus", "alertmanager", "postgres"):  # other programs, or told by other means
        return
    assert options(SERVICES[name]["command"]) == options(list(process.command)) - {"--table"}


def options(words: list[str]) -> set[str]:
    """Return the names of the options of a command, those of an endpoint with the endpoint's."""
    names = {word.split("=")[0] for word in words if word.startswith("--") and not word.startswith("--endpoint=")}
    return names | {"=".join(word.split("=")[:2]) for word in words if word.startswith("--endpoint=")}


def test_the_ports_that_are_published_are_those_that_the_stack_finds():
    """Every published port is one the kernel chose, and every chosen one is published."""
    published = {
        port for service in SERVICES.values() for port in re.findall(r"SIM_PORT_([A-Z_]+)", str(service.get("ports")))
    }
    assert published - {"DEBEZIUM"} == {name.upper() for name in STACK.ports}


def test_the_profile_of_the_containers_is_that_of_the_local_stack():
    """They differ in name, label, stack and doors, and in nothing else."""
    local = yaml.safe_load((ROOT / generate.PROFILE).read_text())
    here = yaml.safe_load((ROOT / generate.COMPOSE_PROFILE).read_text())
    same = local.keys() - {"target", "environment", "stack", "doors"}
    assert {key: here[key] for key in same} == {key: local[key] for key in same}
    assert local.keys() == here.keys()
    assert (here["target"], here["environment"], here["stack"]) == ("mbp-compose", "sim-compose", "compose/docker.yaml")
    assert set(local["doors"]) - set(here["doors"]) <= {"processes"}
    assert {"proxy", "reaper", "docker", "postgres"} <= set(here["doors"])


def test_no_fault_reaches_a_container_of_another_stack():
    """Two stacks on one engine have services of the same names: the door shows those of its own project only."""
    assert isinstance(STACK, spec.ComposeSpec)
    door = yaml.safe_load((ROOT / generate.COMPOSE_PROFILE).read_text())["doors"]["docker"]["url"]
    exports = {"docker": "unix:///engine.sock", "docker_project": "sim-default-0123abcd"}
    assert {name: STACK.exports[name] for name in exports} == {
        "docker": "${compose.engine}",
        "docker_project": "${compose.project}",
    }
    for name, value in exports.items():
        door = door.replace(f"${{stack.{name}}}", value)
    site = Site(id="f", run_id="r", doors={"docker": Door(url=door)}, secrets=Secrets())
    assert Engine(site).scope == ("com.docker.compose.project=sim-default-0123abcd",)


def test_a_profile_that_cannot_be_turned_is_an_error():
    """A line that must differ and is not there, or twice, stops the generator: it would write the wrong profile."""
    text = (ROOT / generate.PROFILE).read_text()
    assert generate.compose_profile(text) == (ROOT / generate.COMPOSE_PROFILE).read_text()
    with pytest.raises(TableError, match="environment: sim-local"):
        generate.compose_profile(text.replace("environment: sim-local", "environment: elsewhere"))
    with pytest.raises(TableError, match="2 times"):
        generate.compose_profile(text + "doors:\n")


def test_no_image_fetches_anything_that_the_host_could_have_checked():
    """No image installs a Python package from a network; none names a user that is root at its end."""
    for path in sorted((COMPOSE / "images").glob("*/Dockerfile")):
        text = path.read_text()
        assert "pip install" not in text or "--no-index" in text, path
        assert re.findall(r"^USER (\d+):\d+$", text, re.MULTILINE)[-1:] not in ([], ["0"]), path


def test_the_health_probe_is_a_script_that_ends_well_only_on_200(tmp_path: Path):
    """It is what fifteen services are judged by: 200 is well, anything else and nobody there is not."""
    import http.server
    import subprocess
    import threading

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/healthz" else 503)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        port = str(server.server_port)
        codes = [
            subprocess.run([COMPOSE / "images/mbp/healthy", port, path], capture_output=True, check=False).returncode
            for path in ("/healthz", "/busy")
        ]
        server.shutdown()
    dead = subprocess.run([COMPOSE / "images/mbp/healthy", port, "/healthz"], capture_output=True, check=False)
    assert (codes, dead.returncode) == ([0, 1], 1)
