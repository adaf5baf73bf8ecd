"""The walk through the HTTP API works as it is written, with curl."""

import shutil
from pathlib import Path

import anyio
import pytest

from tests.docs.pages import code, read, section
from tests.support.node import Node

pytestmark = pytest.mark.anyio

WRITTEN = "127.0.0.1:8081"
WALKS = {
    "docs/api.md": code(section(read("docs/api.md"), "## A walk through it"), "sh")[0],
    "README.md": code(section(read("README.md"), "## With a backend"), "sh")[0],
}


@pytest.mark.parametrize("page", WALKS)
async def test_every_call_of_a_walk_succeeds(tmp_path: Path, page: str) -> None:
    if shutil.which("curl") is None:
        pytest.skip("NO CURL, THE WALKS ARE NOT TRIED")
    async with Node(tmp_path) as node:
        text = (
            WALKS[page].replace(WRITTEN, node.api_url.removeprefix("http://")).replace("curl ", "curl -sf ")
        )
        done = await anyio.run_process(["sh", "-e", "-c", text], check=False)
    assert done.returncode == 0, done.stderr.decode()
    answers = done.stdout.decode()
    assert '"at":' in answers
    if page == "docs/api.md":
        assert '"bot-1"' in answers
        assert '"ada":{"online":false' in answers
        assert '"user":"bot","room":"lobby"' in answers


async def test_every_change_of_rules_and_lists_succeeds(tmp_path: Path) -> None:
    if shutil.which("curl") is None:
        pytest.skip("NO CURL, THE EXAMPLES ARE NOT TRIED")
    (text,) = code(section(read("docs/api.md"), "## Rules and lists while running"), "sh")
    async with Node(tmp_path) as node:
        text = text.replace(WRITTEN, node.api_url.removeprefix("http://"))
        done = await anyio.run_process(["sh", "-e", "-c", text], check=False)
    assert done.returncode == 0, done.stderr.decode()
    assert '"version":4' in done.stdout.decode()


async def test_the_gateways_example_is_answered_as_envoy_answers(tmp_path: Path) -> None:
    if shutil.which("curl") is None:
        pytest.skip("NO CURL, THE EXAMPLES ARE NOT TRIED")
    (text,) = code(section(read("docs/api.md"), "## For gateways"), "sh")
    config = tmp_path / "rules.toml"
    config.write_text('[[throttle.rules]]\nname = "login"\nlimit = "1/60s"\n')
    async with Node(tmp_path, "--config", str(config)) as node:
        text = text.replace(WRITTEN, node.api_url.removeprefix("http://"))
        answers = [await anyio.run_process(["sh", "-e", "-c", text], check=False) for _ in range(2)]
    assert ['"overallCode":"OK"' in answer.stdout.decode() for answer in answers] == [True, False]
    assert b'"overallCode":"OVER_LIMIT"' in answers[1].stdout
