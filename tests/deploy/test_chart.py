"""deploy/helm: what the chart makes is what Kubernetes and the server accept, and its probe asks the other nodes.

helm takes five minutes of a core to build; what it made is kept, with a digest of what that was made from (`chart.py`).
"""

import re
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final

import anyio
import kubernetes_validate
import pytest
import yaml

from presence_server.config import Settings, load
from presence_server.metrics import FAMILIES
from tests.deploy import chart
from tests.support.api import call
from tests.support.node import PROJECT, Node
from tests.support.proxy import Proxy
from tests.support.redis_server import RedisServer
from tests.support.waiting import eventually

pytestmark = pytest.mark.anyio

VERSIONS: Final = ("1.27", "1.30", "1.37")
READY: Final = chart.CHART / "files" / "ready.py"
EVERY_CASE: Final = pytest.mark.parametrize("case", chart.CASES)
SOON: Final = (
    "--presence.heartbeat_ms",
    "1000",
    "--presence.ttl_ms",
    "12000",
    "--server.drain_delay_ms",
    "60000",
)


def one(case: str, kind: str, name_ends: str = "") -> dict[str, Any]:
    """Return the only manifest of a kind."""
    (found,) = [
        manifest
        for manifest in chart.manifests(case)
        if manifest["kind"] == kind and manifest["metadata"]["name"].endswith(name_ends)
    ]
    return found


def pod(case: str) -> dict[str, Any]:
    """Return the pod that the Deployment makes."""
    template: dict[str, Any] = one(case, "Deployment")["spec"]["template"]
    return template


def container(case: str) -> dict[str, Any]:
    """Return the pod's only container."""
    (only,) = pod(case)["spec"]["containers"]
    found: dict[str, Any] = only
    return found


def settings_of(case: str, folder: Path) -> Settings:
    """Return what a node of the chart reads."""
    environment = {"PRESENCE_SERVER__HOST": "0.0.0.0"}  # noqa: S104 - as the image has it
    for variable in container(case)["env"]:
        value = variable.get("value", "redis://valkey:6379")
        if variable["name"].endswith("_FILE"):
            assert value.startswith("/run/secrets/presence/")
            value = str(folder / Path(value).name)
            Path(value).write_text("k" * 64)
        environment[variable["name"]] = value
    file = folder / "presence.toml"
    file.write_text(one(case, "ConfigMap")["data"]["presence.toml"])
    assert container(case)["args"] == ["serve", "--config", "/etc/presence/presence.toml"]
    return load(str(file), environment, {})


@EVERY_CASE
def test_what_was_rendered_is_of_this_chart(case: str) -> None:
    head = chart.rendered_of(case).read_text().partition("\n")[0]
    assert head == f"{chart.HEAD}{chart.digest(case)}", "the chart has changed: python -m tests.deploy.chart"


@EVERY_CASE
def test_helm_renders_the_same(case: str) -> None:
    helm = shutil.which("helm")
    if helm is None:
        pytest.skip("there is no helm on this machine: what it rendered before is what is tested")
    assert chart.render(helm, case) == chart.rendered_of(case).read_text()


@EVERY_CASE
@pytest.mark.parametrize("version", VERSIONS)
def test_kubernetes_accepts_every_manifest(case: str, version: str) -> None:
    found = chart.manifests(case)
    assert len(found) >= 6
    for manifest in found:
        kubernetes_validate.validate(manifest, version, strict=True)


@EVERY_CASE
def test_the_server_accepts_its_settings_and_has_time_to_drain(case: str, tmp_path: Path) -> None:
    settings = settings_of(case, tmp_path)
    (_, pause) = container(case)["lifecycle"]["preStop"]["exec"]["command"]
    drain_ms = int(pause) * 1000 + settings.server.drain_delay_ms + settings.server.drain_ms
    grace_ms = pod(case)["spec"]["terminationGracePeriodSeconds"] * 1000
    assert drain_ms + 5_000 <= grace_ms <= drain_ms + 15_000
    assert (settings.server.port, settings.server.api_port) == (8080, 8081)


def test_every_value_reaches_the_server(tmp_path: Path) -> None:
    settings = settings_of("most", tmp_path)
    assert settings.proxy.trusted == ["10.0.0.0/8", "fd00::/8"]
    assert settings.proxy.protocol
    assert settings.auth.secret == "k" * 64
    assert settings.limits.rooms == 50
    assert settings.rooms[0].pattern == "news:*"
    assert settings.server.drain_ms == 60_000


@EVERY_CASE
def test_a_node_may_do_little(case: str) -> None:
    allowed = container(case)["securityContext"]
    assert allowed["readOnlyRootFilesystem"]
    assert not allowed["allowPrivilegeEscalation"]
    assert allowed["capabilities"] == {"drop": ["ALL"]}
    assert pod(case)["spec"]["securityContext"]["runAsNonRoot"]
    assert not pod(case)["spec"]["automountServiceAccountToken"]


@EVERY_CASE
def test_everything_that_selects_pods_selects_these(case: str) -> None:
    labels = pod(case)["metadata"]["labels"]
    selectors = [
        one(case, "Deployment")["spec"]["selector"]["matchLabels"],
        one(case, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
        one(case, "NetworkPolicy")["spec"]["podSelector"]["matchLabels"],
        *(found["spec"]["selector"] for found in chart.manifests(case) if found["kind"] == "Service"),
    ]
    assert len(selectors) == 5
    for selector in selectors:
        assert selector
        assert selector.items() <= labels.items()


@EVERY_CASE
def test_the_internal_port_is_for_the_nodes_and_for_who_is_named(case: str) -> None:
    client, internal = one(case, "NetworkPolicy")["spec"]["ingress"]
    assert [port["port"] for port in client["ports"]] == ["client"]
    assert [port["port"] for port in internal["ports"]] == ["internal"]
    nodes, *others = internal["from"]
    assert nodes["podSelector"]["matchLabels"].items() <= pod(case)["metadata"]["labels"].items()
    assert others == ([] if case == "least" else [{"podSelector": {"matchLabels": {"app": "backend"}}}])
    exposed = one(case, "Service", "-internal")["spec"]
    assert (exposed["clusterIP"], exposed["publishNotReadyAddresses"]) == ("None", True)


def test_nodes_are_added_by_their_connections() -> None:
    spec = one("most", "HorizontalPodAutoscaler")["spec"]
    (metric,) = [metric["pods"]["metric"]["name"] for metric in spec["metrics"] if metric["type"] == "Pods"]
    assert metric in {family.exposed for family in FAMILIES}
    assert "replicas" not in one("most", "Deployment")["spec"]


def test_the_probes_are_pages_that_there_are_and_the_loss_of_the_store_restarts_nothing() -> None:
    probes = container("most")
    assert probes["livenessProbe"]["httpGet"]["path"] == "/healthz"
    assert probes["readinessProbe"]["httpGet"]["path"] == "/readyz?isolated=ok"
    command = container("least")["readinessProbe"]["exec"]["command"]
    internal = one("least", "Service", "-internal")
    (port,) = internal["spec"]["ports"]
    assert command[-2:] == ["8081", f"{internal['metadata']['name']}:{port['port']}"]
    assert one("least", "ConfigMap")["data"]["ready.py"].split() == READY.read_text().split()


def test_prometheus_finds_the_pods() -> None:
    """Debian's promtool knows nothing of Kubernetes."""
    file = PROJECT / "deploy" / "prometheus" / "kubernetes.yml"
    (job,) = yaml.safe_load(file.read_text())["scrape_configs"]
    assert job["job_name"] == "presence"
    found = {f"app_kubernetes_io_name:{pod('least')['metadata']['labels']['app.kubernetes.io/name']}"}
    found |= {f"port_name:{port['name']}" for port in container("least")["ports"]}
    for rule in job["relabel_configs"]:
        if rule.get("action") == "keep":
            (label,) = rule["source_labels"]
            assert any(
                label.endswith(name) and value == rule["regex"]
                for name, value in (x.split(":") for x in found)
            )


class Pods:
    """Two nodes that reach the store over networks of their own, each with its probe."""

    def __init__(self, nodes: list[Node], networks: list[Proxy]) -> None:
        self.nodes = nodes
        self.networks = networks

    async def probe(self, n: int) -> int:
        """Return the exit code of a node's probe."""
        peers = ",".join(f"localhost:{node.api_port}" for node in self.nodes)
        command = [sys.executable, "-I", str(READY), str(self.nodes[n].api_port), peers]
        return (await anyio.run_process(command, check=False)).returncode

    async def are(self, *codes: int) -> None:
        """Wait until the probes end with these codes."""

        async def ask() -> tuple[int, ...]:
            return await self.probe(0), await self.probe(1)

        await eventually(ask, lambda answer: answer == codes)


@pytest.fixture
async def pods(tmp_path: Path) -> AsyncIterator[Pods]:
    with RedisServer("valkey") as store:
        async with AsyncExitStack() as stack:
            networks = [await stack.enter_async_context(Proxy(store)) for _ in range(2)]
            nodes = [
                await stack.enter_async_context(Node(tmp_path, "--redis.url", network.url, *SOON))
                for network in networks
            ]
            pods = Pods(nodes, networks)
            await pods.are(0, 0)
            yield pods
            for node in nodes:  # a drain would take a minute
                node.kill()


async def test_a_node_alone_without_the_store_is_taken_out_and_all_without_it_stay(pods: Pods) -> None:
    pods.networks[0].cut()
    await pods.are(1, 0)
    pods.networks[1].cut()
    await eventually(lambda: call(pods.nodes[1], "GET", "/readyz"), lambda answer: answer.status == 503)
    await pods.are(0, 0)
    pods.nodes[1].terminate()
    await pods.are(0, 1)


async def test_a_probe_of_a_node_that_is_gone_fails(pods: Pods) -> None:
    pods.nodes[0].kill()
    await pods.nodes[0].wait()
    assert await pods.probe(0) == 1
    assert await pods.probe(1) == 0


def test_nothing_in_the_values_is_unused() -> None:
    names = re.findall(r"^(\w+):", (chart.CHART / "values.yaml").read_text(), re.MULTILINE)
    templates = "".join(path.read_text() for path in (chart.CHART / "templates").iterdir())
    assert len(names) > 15
    assert {name for name in names if f".Values.{name}" not in templates} == set()
