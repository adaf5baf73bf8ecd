"""deploy/prometheus and deploy/grafana: rules that fire when they should, a dashboard whose queries have answers."""

import json
import math
import re
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final, NamedTuple

import aiohttp
import anyio
import pytest
import yaml

from presence_server.metrics import FAMILIES, SUPERVISOR_FAMILIES
from tests.support.api import call
from tests.support.daemon import Daemon, find_program, free_port
from tests.support.node import PROJECT, Node
from tests.support.rawclient import speaking
from tests.support.redis_server import RedisServer

pytestmark = pytest.mark.anyio

PROMETHEUS: Final = PROJECT / "deploy" / "prometheus"
DASHBOARD: Final = json.loads((PROJECT / "deploy" / "grafana" / "dashboards" / "presence.json").read_text())
FLAGS: Final = ("--throttle.publishes", "1000/60s", "--throttle.deadline_ms", "10000")
ROUNDS_MAX: Final = 40


def queries() -> list[str]:
    """Return every query of the dashboard, with what Grafana puts in for variables."""
    asked = [target["expr"] for panel in DASHBOARD["panels"] for target in panel.get("targets", [])]
    return [query.replace("$__rate_interval", "1m").replace("$instance", ".+") for query in asked]


def rules() -> dict[str, dict[str, Any]]:
    """Return every alert by its name."""
    groups = yaml.safe_load((PROMETHEUS / "alerts.yml").read_text())["groups"]
    return {rule["alert"]: rule for group in groups for rule in group["rules"]}


def test_each_rule_fires_for_what_it_is_meant_for_and_for_nothing_else() -> None:
    command = [find_program("promtool"), "test", "rules", "alerts.test.yml"]
    done = subprocess.run(command, cwd=PROMETHEUS, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    tried = re.findall(r'alertname="(\w+)"', (PROMETHEUS / "alerts.test.yml").read_text())
    assert set(tried) == set(rules())


def test_prometheus_and_alertmanager_accept_their_files() -> None:
    for command in (
        ["promtool", "check", "config", "prometheus.yml"],
        ["amtool", "check-config", "alertmanager.yml"],
    ):
        command[0] = find_program(command[0])
        done = subprocess.run(
            command, cwd=PROMETHEUS, capture_output=True, text=True, check=False, timeout=60
        )
        assert done.returncode == 0, done.stdout + done.stderr


def test_rules_and_panels_name_metrics_that_there_are() -> None:
    known = {family.exposed for family in (*FAMILIES, *SUPERVISOR_FAMILIES)}
    known |= {f"{name}_{part}" for name in known for part in ("bucket", "sum", "count")}
    texts = [*queries(), *(rule["expr"] for rule in rules().values())]
    named = {name for text in texts for name in re.findall(r"\bpresence_\w+", text)}
    assert len(named) > 40
    assert named <= known


def test_alerts_that_are_left_out_for_others_exist() -> None:
    inhibited = (PROMETHEUS / "alertmanager.yml").read_text()
    assert set(re.findall(r"Presence\w+", inhibited)) <= set(rules())
    assert {rule["labels"]["severity"] for rule in rules().values()} == {"page", "ticket"}


class Site(NamedTuple):
    """Two nodes that share a store, one that is alone, and the Prometheus that scrapes them."""

    nodes: list[Node]
    url: str

    async def ask(self, query: str) -> list[dict[str, Any]]:
        """Return what Prometheus answers a query with, without what is not a number."""
        async with aiohttp.ClientSession() as session:
            response = await session.get(f"{self.url}/api/v1/query", params={"query": query})
            answer = await response.json()
        assert answer["status"] == "success", (query, answer)
        return [one for one in answer["data"]["result"] if not math.isnan(float(one["value"][1]))]


@pytest.fixture
def store() -> Iterator[RedisServer]:
    with RedisServer("valkey") as server:
        yield server


@pytest.fixture
async def site(tmp_path: Path, store: RedisServer) -> AsyncIterator[Site]:
    async with AsyncExitStack() as stack:
        nodes = [Node(tmp_path, "--redis.url", store.url, *FLAGS) for _ in range(2)]
        nodes.append(Node(tmp_path, *FLAGS))
        for node in nodes:
            node.unthrottled = False
            await stack.enter_async_context(node)
        config = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())
        config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
        config["rule_files"] = [str(PROMETHEUS / name) for name in config["rule_files"]]
        (scrape,) = config["scrape_configs"]
        scrape["static_configs"] = [{"targets": [f"127.0.0.1:{node.api_port}" for node in nodes]}]
        (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(config))
        port = free_port()
        command = [
            *(find_program("prometheus"), "--config.file", str(tmp_path / "prometheus.yml")),
            *("--storage.tsdb.path", str(tmp_path / "data"), "--web.listen-address", f"127.0.0.1:{port}"),
            *("--log.level", "warn"),
        ]
        stack.enter_context(Daemon(command, port))
        yield Site(nodes, f"http://127.0.0.1:{port}")


async def make_traffic(node: Node, n: int) -> None:
    """Come, talk, be refused, and go."""
    async with speaking(node.port, "/ws?user=ann") as ann, speaking(node.port, "/ws?user=bob") as bob:
        for client in (ann, bob):
            await client.request(t="join", room=f"room-{n}", id=1)
        for i in range(4):
            await ann.request(t="publish", room=f"room-{n}", data="hello", id=10 + i)
            await bob.request(t="update", room=f"room-{n}", state={"n": i}, id=10 + i)
        await ann.request(t="publish", room="another", data="hello", id=20)
        await ann.request(t="leave", room=f"room-{n}", id=21)
        await bob.close()
    await call(node, "GET", "/v1/rooms")


async def test_every_query_of_the_dashboard_has_an_answer_and_a_node_on_its_own_raises_no_alarm(
    site: Site,
) -> None:
    unanswered = queries()
    assert len(unanswered) > 40
    for n in range(ROUNDS_MAX):
        for node in site.nodes:
            await make_traffic(node, n)
        unanswered = [query for query in unanswered if not await site.ask(query)]
        if not unanswered:
            break
        await anyio.sleep(1)  # the interval of scrapes
    assert unanswered == []
    alone = f"127.0.0.1:{site.nodes[2].api_port}"
    decided = f'rate(presence_throttle_decisions_total{{instance="{alone}",source="local"}}[1m]) > 0'
    for n in range(ROUNDS_MAX):
        if await site.ask(decided):
            break
        await make_traffic(site.nodes[2], n)
        await anyio.sleep(1)
    else:
        pytest.fail(f"no answer: {decided}")
    alarmed = await site.ask(rules()["PresenceLimitsNotShared"]["expr"])
    assert alone not in {one["metric"]["instance"] for one in alarmed}
