"""The site of `make docs`: it is whole, it needs nothing from elsewhere, and it is searched without a server."""

import html.parser
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.async_api import Browser, expect

import presence_server.client
import presence_server.throttle
from docs.make_site import REFERENCES, moved
from presence_server.api.calls import ROUTES
from tests.docs.pages import PROJECT, read

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site; a broken link, a missing heading or a page in no menu fails it."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    return folder


class Elements(html.parser.HTMLParser):
    """The URLs that a page loads by itself, and the ids of its elements."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.ids: set[str] = set()
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        self.ids.add(named.get("id") or "")
        loads = named.get("src") or (named.get("href") if tag == "link" else None)
        if loads and named.get("rel") != "canonical":
            self.loaded.append(loads)


def pages(site: Path) -> Iterator[Path]:
    """Yield every page of the site."""
    yield from site.rglob("*.html")


def test_no_page_loads_anything_from_elsewhere(site: Path) -> None:
    loaded = {(page.name, url) for page in pages(site) for url in Elements(page).loaded}
    assert len(loaded) > 20
    assert {each for each in loaded if urlsplit(each[1]).netloc} == set()


def test_every_page_of_the_project_is_on_the_site(site: Path) -> None:
    names = {path.stem for path in (PROJECT / "docs").glob("*.md")} - {"README"}
    names |= {path.stem for path in PROJECT.glob("*.md")} - {"README"}
    assert {"index", "overview", *names} <= {page.stem for page in pages(site)}


def test_every_public_name_of_the_client_and_the_limiter_is_in_the_reference(site: Path) -> None:
    for package, page in ((presence_server.client, "client"), (presence_server.throttle, "limiter")):
        ids = Elements(site / "reference" / f"{page}.html").ids
        assert {f"{package.__name__}.{name}" for name in package.__all__} - ids == set()


def test_the_reference_says_what_the_names_mean(site: Path) -> None:
    text = (site / "reference" / "client.html").read_text(encoding="utf-8")
    assert "Replace this member's whole state" in text


def test_every_call_of_the_http_api_is_in_its_reference(site: Path) -> None:
    text = (site / "reference" / "http.html").read_text(encoding="utf-8")
    assert [route.path for route in ROUTES if f"<code>{route.method} {route.path}</code>" not in text] == []
    assert (site / "reference" / "openapi.json").stat().st_size > 10_000


async def test_the_site_is_searched_from_files_without_a_server(site: Path, browser: Browser) -> None:
    page = await browser.new_page()
    requested: list[str] = []
    page.on("request", lambda request: requested.append(request.url))
    await page.goto((site / "index.html").as_uri())
    await page.get_by_role("textbox", name="Search").press_sequentially("heartbeat_ms")
    await expect(page.locator(".md-search-result__meta")).to_contain_text("matching document", timeout=30_000)
    await expect(page.locator(".md-search-result__link").first).to_be_visible()
    assert [url for url in requested if not url.startswith(("file:", "data:"))] == []
    await page.close()


def test_links_of_a_page_lead_to_the_same_file_from_its_place_on_the_site() -> None:
    text = "[a](../SECURITY.md) [b](api.md#probes) [c](../deploy/nginx/presence.conf) [d](#here) [e](http://x/y.md)"
    assert moved(text, "docs/security.md") == (
        "[a](SECURITY.md) [b](api.md#probes) [c](deploy/nginx/presence.conf) [d](#here) [e](http://x/y.md)"
    )
    assert (
        moved("[a](docs/api.md) [b](bench/results/)", "README.md")
        == "[a](api.md) [b](bench/results/README.md)"
    )
    assert moved("[a](../../README.md)", "bench/results/README.md") == "[a](../../overview.md)"
    assert moved("```\n[a](docs/api.md)\n```", "README.md") == "```\n[a](docs/api.md)\n```"


def test_references_are_for_pages_that_exist() -> None:
    for _, introduction, _ in REFERENCES.values():
        assert read("docs/" + introduction.partition("](../")[2].partition(")")[0])
