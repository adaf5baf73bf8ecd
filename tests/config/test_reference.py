"""The page of all settings."""

from pathlib import Path

from presence_server.config import load
from presence_server.config.open_files import RESERVED
from presence_server.config.reference import EXAMPLE, reference_page
from presence_server.config.setting_keys import KEYS, keys_of
from presence_server.config.settings import BYTES_MAX, DURATION_MS_MAX, RoomSettings, ThrottleRule

PAGE = Path(__file__).parents[2] / "docs" / "configuration.md"


def test_the_committed_page_is_the_generated_one() -> None:
    assert PAGE.read_text(encoding="utf-8") == reference_page()


def test_every_key_is_on_the_page_with_a_meaning() -> None:
    keys = [*KEYS.values(), *keys_of("", RoomSettings).values(), *keys_of("", ThrottleRule).values()]
    for key in keys:
        assert key.meaning, key.path
        assert f"| `{key.name}` | " in reference_page()


def test_every_duration_and_size_says_its_unit() -> None:
    for key in KEYS.values():
        if key.name.endswith("_ms"):
            assert ", ms" in key.meaning, key.path
        if key.name.endswith("_bytes"):
            assert "bytes" in key.meaning, key.path


def test_numbers_in_the_text_are_those_of_the_code() -> None:
    assert f"and {RESERVED} more files" in reference_page()
    assert DURATION_MS_MAX == 366 * 86_400_000
    assert BYTES_MAX == 1024**3


def test_the_example_loads(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("s\n", encoding="utf-8")
    path = tmp_path / "p.toml"
    path.write_text(EXAMPLE.replace("/run/secrets/resume", str(secret)), encoding="utf-8")
    assert load(path).auth.resume_secret == "s"
