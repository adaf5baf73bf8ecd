"""The application in examples/react builds with what npm has installed, and shows people to each other."""

import shutil
from pathlib import Path

import pytest
from playwright.async_api import Browser, expect

from tests.docs.test_examples import served
from tests.support.node import Node
from tests.typescript.conftest import PACKAGE
from tests.typescript.test_package import run

pytestmark = pytest.mark.anyio
EXAMPLE = PACKAGE.parents[1] / "examples/react"


@pytest.fixture
def built(node_js: str, tmp_path: Path) -> Path:
    """Build the example without a network; return its public folder."""
    folder = tmp_path / "react"
    shutil.copytree(EXAMPLE, folder, ignore=shutil.ignore_patterns("node_modules", "main.js"))
    modules = folder / "node_modules"
    client = modules / "@presence-server/client"
    client.mkdir(parents=True)
    for installed in (PACKAGE / "node_modules").iterdir():
        (modules / installed.name).symlink_to(installed)
    shutil.copy(PACKAGE / "package.json", client)
    run(node_js, "build.mjs", "--package", str(client / "dist"))
    run("npm", "run", "build", "--prefix", str(folder))
    return folder / "public"


async def test_the_react_example_builds_and_shows_who_is_here(
    built: Path, browser: Browser, tmp_path: Path
) -> None:
    async with Node(tmp_path) as node:
        with served(built) as url:
            ada, bob = await browser.new_page(), await browser.new_page()
            for page, name in ((ada, "Ada"), (bob, "Bob")):
                await page.goto(f"{url}/?name={name}&server={node.ws_url}")
            for page in (ada, bob):
                await expect(page.get_by_role("listitem")).to_have_count(2)
                await expect(page.get_by_role("status")).to_have_count(0)
            await ada.get_by_label("Away").check()
            await expect(bob.get_by_title("Ada")).to_have_attribute("data-away", "true")
            await bob.get_by_role("button", name="Wave").click()
            await expect(ada.get_by_text("bob: hello")).to_be_visible()
            await bob.close()
            await expect(ada.get_by_role("listitem")).to_have_count(1)
            await ada.close()
