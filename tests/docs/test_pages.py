"""What the pages name is there: files, headings, settings, figures."""

import re
from pathlib import Path

import pytest

from bench.__main__ import MEASUREMENTS
from docs.make_figures import MEASURED, PERFORMANCE, README, RESULTS, headlines, with_table, with_tables
from presence_server import __version__
from presence_server.config.setting_keys import KEYS, keys_of
from presence_server.config.settings import SECTIONS, RoomSettings
from tests.docs.pages import PAGES, PROJECT, headings, prose, read

EVERY_PAGE = pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(PROJECT)) for page in PAGES])
SETTING = re.compile(rf"`-{{0,2}}((?:{'|'.join(SECTIONS)})\.(?!(?:py|js|toml|v1)\b)\w+)`")
SHORT = re.compile(r"`(\w+_(?:ms|bytes|max|per_ip|secret|cert|key))`")
NOT_SETTINGS = {"ping_ms", "reconnect_ms", "retry_after_ms", "resume_secret", "events_max"}


def anchor(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@EVERY_PAGE
def test_every_link_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page.read_text(encoding="utf-8"))):
        if target.startswith(("https://", "http://")):
            continue
        name, _, place = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        assert file.exists(), target
        if place:
            assert place in {anchor(words) for words in headings(file.read_text(encoding="utf-8"))}, target


@EVERY_PAGE
def test_every_setting_that_is_named_exists(page: Path) -> None:
    for path in SETTING.findall(page.read_text(encoding="utf-8")):
        assert path in KEYS


@pytest.mark.parametrize("page", ["docs/wire.md", "docs/presence.md"])
def test_settings_without_their_section_exist_too(page: str) -> None:
    known = {key.name for key in KEYS.values()} | keys_of("", RoomSettings).keys()
    assert set(SHORT.findall(read(page))) - NOT_SETTINGS <= known


@EVERY_PAGE
def test_every_page_is_in_an_index(page: Path) -> None:
    name = page.name
    assert name == "README.md" or f"{name})" in read("docs/README.md")


def test_the_readme_is_short() -> None:
    assert len(read("README.md").splitlines()) < 200


def test_every_figure_in_the_readme_is_from_the_results() -> None:
    text = README.read_text(encoding="utf-8")
    assert text == with_table(text, headlines()), "run: python -m docs.make_figures"


def test_every_figure_of_the_performance_page_is_from_the_results() -> None:
    text = PERFORMANCE.read_text(encoding="utf-8")
    assert text == with_tables(text), "run: python -m docs.make_figures"


def test_every_measurement_is_on_the_performance_page() -> None:
    assert MEASURED.keys() == MEASUREMENTS.keys()
    for name in MEASURED:
        assert (RESULTS / f"{name}.json").exists(), f"run: python -m bench {name}"
        assert MEASURED[name] in PERFORMANCE.read_text(encoding="utf-8")


def test_the_version_is_in_the_changelog() -> None:
    assert f"## [{__version__}]" in read("CHANGELOG.md")


@EVERY_PAGE
def test_every_test_that_is_named_exists(page: Path) -> None:
    for name in re.findall(r"`(tests/[\w/.]+)`", page.read_text(encoding="utf-8")):
        assert (PROJECT / name).exists(), name
