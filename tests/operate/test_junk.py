"""What a server that is no node, or one of another version, makes of the commands that ask it."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from presence_server import cli
from presence_server.api.overview_schema import (
    LostNodeOverview,
    NodeOverview,
    OverviewAnswer,
    RoomOverview,
    StoreOverview,
    Throttled,
)
from presence_server.operate.api_client import ApiClient, read_key
from presence_server.operate.output import printable, printable_json
from presence_server.registry.figures import Alert, DecisionRate, History, Rates
from presence_server.throttle.talkers import Line
from tests.operate.junk_server import answering

END_S = 60
ESCAPES = "\x1b]0;taken\x07\x1b[2J\x9b31m\u202e"
COMMANDS = (
    ("top", "--once"),
    ("throttle", "show"),
    ("throttle", "show", "--json"),
    ("throttle", "peek", "login", "eve"),
    ("throttle", "top"),
    ("throttle", "dry-run", "login", "1/1s"),
    ("throttle", "deny", "--key", "eve"),
)


def overview(**changes: Any) -> dict[str, Any]:
    """Return an overview in which every name tries to control the terminal."""
    node = NodeOverview(ESCAPES, ESCAPES, "serving", 1, 5, 4, 3, 2, 100, 0.1, 1, 2, 3.0, Rates())
    answer = OverviewAnswer(
        node=ESCAPES,
        at=1,
        shared=True,
        complete=False,
        nodes=[node],
        lost=[LostNodeOverview(ESCAPES, 9)],
        rates=Rates(),
        decisions=[DecisionRate(ESCAPES, ESCAPES, 1.0)],
        rooms=[RoomOverview(ESCAPES, 1, 1, [ESCAPES])],
        throttled=Throttled([Line(ESCAPES, ESCAPES, 5, 0)], 1_000),
        store=[StoreOverview(ESCAPES, ESCAPES, ESCAPES, 1, 1, 1, 1, 1, 1)],
        alerts=[Alert("critical", ESCAPES, ESCAPES, ESCAPES), Alert("critical", ESCAPES, ESCAPES, "b")],
        step_ms=2_000,
        history=History(1, [1, 2]),
    )
    built: dict[str, Any] = msgspec.to_builtins(answer)
    return built | changes


def controls(text: str) -> list[str]:
    """Return what of a text controls a terminal."""
    return [char for char in text if not char.isprintable() and char != "\n"]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
@pytest.mark.parametrize("status", [200, 403, 500])
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"5",
        b'"x"',
        b"null",
        b"[]",
        b"{}",
        b"<html>",
        b"\xff",
        b"[" * 100_000,
        b'{"nodes":[]}',
        json.dumps({"detail": f"no{ESCAPES}"}).encode(),
        json.dumps({"detail": ["no"], "nodes": float("nan")}).encode(),
    ],
)
def test_junk_is_said_in_one_line(
    capsys: pytest.CaptureFixture[str], command: tuple[str, ...], body: bytes, status: int
) -> None:
    with answering(body, status) as url:
        assert cli.main([*command, "--api", url]) == 1
    said = capsys.readouterr()
    assert (said.out, said.err.count("\n"), controls(said.err)) == ("", 1, [])
    reason = "is no presence-server, or one of another version" if status == 200 else f": {status}: "
    assert reason in said.err


@pytest.mark.parametrize(
    "changes",
    [
        {"rates": None},
        {"alerts": [{"level": "fatal", "kind": "x", "text": "of a later version"}]},
        {"history": {"connections": [1.5]}},
        {"node": 5},
    ],
)
def test_an_overview_of_another_version_is_refused_with_the_place(
    capsys: pytest.CaptureFixture[str], changes: dict[str, Any]
) -> None:
    with answering(json.dumps(overview(**changes)).encode()) as url:
        assert cli.main(["top", "--once", "--url", url]) == 1
    assert f"$.{next(iter(changes))}" in capsys.readouterr().err


def test_no_name_of_an_overview_controls_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with answering(json.dumps(overview()).encode()) as url:
        assert cli.main(["top", "--once", "--url", url]) == 0
    frame = capsys.readouterr().out
    assert controls(frame) == []
    assert frame.count("taken") >= 8


def test_fields_of_a_later_version_are_passed_over_and_absurd_numbers_printed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    node = dict.fromkeys(("policy", "uptime_ms", "rooms"), -5) | {"node": "a", "version": "9"}
    huge = {"state": "serving", "lag_ms": 10**400, "connections": 10**400, "memory_bytes": 10**400}
    history = {"connections": [-100, -1], "denied": [10**400, 1]}
    body = overview(nodes=[node | huge | {"later": [1]}], history=history, later={})
    with answering(json.dumps(body).encode()) as url:
        assert cli.main(["top", "--once", "--url", url]) == 0
    assert capsys.readouterr().out.startswith("presence-server  nodes: 1, ")


def test_a_frame_without_end_is_cut_off(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("presence_server.operate.api_client.ANSWER_BYTES_MAX", 1_000)
    with answering(b"[" * 1_001) as url:
        assert cli.main(["top", "--once", "--url", url]) == 1
    assert "answered with more than 1000 bytes" in capsys.readouterr().err


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:1/é", "http://h\u0301ost..:1", "http://a b:1", "http://x/\x1b["]
)
def test_a_url_that_cannot_be_asked_is_said_in_one_line(capsys: pytest.CaptureFixture[str], url: str) -> None:
    for command in COMMANDS:
        assert cli.main([*command, "--api", url]) == 1
        said = capsys.readouterr()
        assert (said.out, said.err.count("\n"), controls(said.err)) == ("", 1, [])


def test_json_of_what_is_answered_has_escapes_where_it_could_control_the_terminal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    body: dict[str, Any] = {
        "allowed": True,
        "limit": 1,
        "remaining": 1,
        "retry_after_ms": 0,
        "reset_after_ms": 0,
    }
    body |= {"source": "local", "rule": ESCAPES}
    with answering(json.dumps(body).encode()) as url:
        assert cli.main(["throttle", "peek", "login", "eve", "--json", "--api", url]) == 0
    text = capsys.readouterr().out
    assert (json.loads(text), controls(text)) == (body, [])


@pytest.mark.parametrize(
    ("command", "answer"),
    [
        (("top", "--once"), overview()),
        (("throttle", "top"), {"top": [], "floor": 0, "over_ms": 0, "nodes": 1}),
        (("throttle", "top", "--json"), {"top": [], "floor": 0, "over_ms": 0, "nodes": 1}),
    ],
    ids=["top", "throttle top", "throttle top --json"],
)
def test_what_cannot_be_written_is_said_in_one_line(command: tuple[str, ...], answer: Any) -> None:
    with answering(json.dumps(answer).encode()) as url, Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "presence_server", *command, "--api", url],
            stdout=full,
            stderr=subprocess.PIPE,
            check=False,
            text=True,
            timeout=END_S,
        )
    problem = "the output cannot be written: No space left on device"
    assert (done.returncode, done.stderr) == (1, f"presence-server {command[0]}: {problem}\n")


def test_what_is_printable_stays() -> None:
    assert printable("Zoë 猫 🚀 [red]") == "Zoë 猫 🚀 [red]"
    assert printable("a\nb\x9b\ud800") == "a�b��"
    assert printable_json({"ключ": "\u202e\U000e0001"}) == '{\n  "ключ": "\\u202e\\udb40\\udc01"\n}'


def test_a_key_of_any_alphabet_is_sent_as_utf_8_and_only_the_first_line(tmp_path: Path) -> None:
    file = tmp_path / "key"
    for text, key in (("ключ\u0085\r\nolder\n", "ключ\u0085"), (" \ta\u00a0 ", "a\u00a0"), ("", "")):
        file.write_text(text, encoding="utf-8", newline="")
        assert read_key(str(file)) == key
    assert read_key(None) == ""
    with answering(b"[1]") as url:
        assert ApiClient(url, "ключ").call(list[int], "GET", "/") == [1]
