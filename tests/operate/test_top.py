"""`presence-server top` in a terminal and without one."""

import os
import pty
import re
import signal
import struct
import sys
import termios
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from fcntl import ioctl
from pathlib import Path
from types import ModuleType

import anyio
import anyio.abc
import pytest

from presence_server import cli
from presence_server.client import connect
from presence_server.operate import top
from presence_server.operate.top_frame import BARS, format_duration, format_size, plain, spark
from tests.operate.junk_server import answering
from tests.support.api import call
from tests.support.node import PROJECT, Node
from tests.support.waiting import eventually, until

pytestmark = pytest.mark.anyio

KEY = "the key of the internal port"
HIDE, SHOW = "\x1b[?25l", "\x1b[?25h"
"""What hides the cursor, and shows it."""
OTHER_SCREEN_LEFT = "\x1b[?1049l"
HOSTILE = "\x1b]0;taken\x07[bold red]eve[/]"
END_S = 30


class Terminal:
    """A program in a terminal of 160 columns, and what it has written there."""

    def __init__(self, process: anyio.abc.Process, master: int) -> None:
        self.process = process
        self._master = master
        self._written = b""

    @property
    def text(self) -> str:
        """What it has written since `forget`."""
        while True:
            try:
                part = os.read(self._master, 65_536)
            except (BlockingIOError, OSError):  # OSError: the program has ended
                return self._written.decode(errors="replace")
            if not part:
                return self._written.decode(errors="replace")
            self._written += part

    def forget(self) -> None:
        """Let `text` begin now."""
        assert self.text is not None
        self._written = b""


@asynccontextmanager
async def running(*args: str) -> AsyncIterator[Terminal]:
    """Run `top` in a terminal."""
    master, slave = pty.openpty()
    os.set_blocking(master, False)
    ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 160, 0, 0))
    command = [sys.executable, "-m", "presence_server", "top", *args]
    env = {key: value for key, value in os.environ.items() if key not in {"COLUMNS", "LINES", "NO_COLOR"}}
    process = await anyio.open_process(
        command, stdin=slave, stdout=slave, stderr=slave, cwd=PROJECT, env=env | {"TERM": "xterm-256color"}
    )
    os.close(slave)
    try:
        yield Terminal(process, master)
    finally:
        if process.returncode is None:
            process.kill()
        await process.aclose()
        os.close(master)


async def once(*args: str) -> tuple[int, str, str]:
    """Print one frame where there is no terminal; return the exit code, the output, and what went wrong."""
    command = [sys.executable, "-m", "presence_server", "top", *args]
    done = await anyio.run_process(command, check=False, cwd=PROJECT)
    return done.returncode, done.stdout.decode(), done.stderr.decode()


async def test_a_frame_has_nodes_and_rooms_and_no_name_is_more_than_text(tmp_path: Path) -> None:
    async with Node(tmp_path, "--throttle.publishes", "1/600s", "--api.key", KEY) as node:
        body = {"user": HOSTILE[-15:], "state": {}}
        headers = {"Authorization": f"Bearer {KEY}"}
        assert (await call(node, "PUT", "/v1/rooms/lobby/members/bot", body, headers=headers)).status == 201
        async with connect(node.ws_url, user="[bold red]eve[/]") as eve:
            room = await eve.join("lobby")
            await room.publish(1)
            with pytest.raises(Exception, match="throttled"):
                await room.publish(2)

            async def told() -> bool:
                overview = (await call(node, "GET", "/v1/overview", headers=headers)).body
                return bool(overview["rooms"] and overview["throttled"]["top"])

            await eventually(told, bool)
            key_file = tmp_path / "key"
            key_file.write_text(f"{KEY}\n")
            code, frame, _ = await once("--url", node.api_url, "--key-file", str(key_file))
            assert code == 0
            assert re.search(rf"{node.id} +serving +\d+ (s|min) +1 +1 ", frame), frame
            assert re.search(r"lobby +2 +2 +1", frame), frame
            assert re.search(r"\[bold red\]eve\[/\] +publishes +1", frame), frame
            assert "\x1b" not in frame
            code, _, problem = await once("--url", node.api_url, "--once")
            assert (code, problem) == (
                1,
                "presence-server top: 401: Authorization: Bearer with api.key is needed\n",
            )


async def test_in_a_terminal_frames_follow_each_other_until_ctrl_c(tmp_path: Path) -> None:
    node = Node(tmp_path)
    await node.start()
    async with running("--url", node.api_url) as terminal:
        await until(lambda: "serving" in terminal.text, lambda: terminal.text)
        terminal.forget()
        await until(lambda: "serving" in terminal.text)
        node.kill()
        await node.wait()
        await until(lambda: "last answer" in terminal.text, lambda: terminal.text)
        assert "cannot be asked" in terminal.text
        await node.start()
        await until(lambda: node.id in terminal.text)
        terminal.process.send_signal(signal.SIGINT)
        with anyio.fail_after(END_S):
            assert await terminal.process.wait() == 0
        assert "Traceback" not in terminal.text
    await node.stop()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
async def test_whatever_ends_it_leaves_the_terminal_as_it_was(number: signal.Signals) -> None:
    with answering(b"{}") as url:
        async with running("--url", url) as terminal:
            await until(lambda: "another version" in terminal.text, lambda: terminal.text)
            assert (HIDE in terminal.text, SHOW in terminal.text) == (True, False)
            assert "last answer" not in terminal.text, "there was none"
            for _ in range(3):
                terminal.process.send_signal(number)
            with anyio.fail_after(END_S):
                assert await terminal.process.wait() == 0
            await until(lambda: terminal.text.rfind(SHOW) > terminal.text.rfind(HIDE), lambda: terminal.text)
            assert OTHER_SCREEN_LEFT in terminal.text
            assert "Traceback" not in terminal.text


async def test_nobody_there_or_no_such_thing_is_said_in_one_line(tmp_path: Path) -> None:
    code, frame, problem = await once("--url", "http://127.0.0.1:1", "--once")
    assert (code, frame) == (1, "")
    assert re.fullmatch(r"presence-server top: http://127\.0\.0\.1:1 cannot be asked: .*refused.*\n", problem)
    for args, says in (
        (("--url", "127.0.0.1:8081"), "is no http:// or https:// URL"),
        (("--key-file", str(tmp_path / "none")), "No such file"),
        (("--urll", "x"), "unknown flag"),
    ):
        code, frame, problem = await once(*args)
        assert (code, frame) == (2, "")
        assert says in problem
        assert problem.count("\n") == 1


def test_without_rich_the_extra_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def find_spec(name: str) -> ModuleType | None:
        assert name == "rich"
        return None

    monkeypatch.setattr(top, "find_spec", find_spec)
    assert cli.main(["top", "--once"]) == 2
    assert "pip install 'presence-server[top]'" in capsys.readouterr().err


def test_numbers_are_short_and_bars_go_from_nothing_to_the_greatest() -> None:
    assert [format_duration(ms) for ms in (0, 59_400, 60_000, 3_700_000, 90_000_000)] == [
        "0 s",
        "59 s",
        "1 min",
        "1 h 1 min",
        "1 d 1 h",
    ]
    assert [format_size(n) for n in (5, 2_048, 5 << 20, 3 << 30)] == ["5 B", "2 KiB", "5 MiB", "3.0 GiB"]
    assert spark([0, 7, 0, 3], 4) == f"{BARS[0]}{BARS[-1]}{BARS[0]}{BARS[3]}"
    assert spark([1, 2, 3, 4, 5], 2) == f"{BARS[round(2 / 5 * 7)]}{BARS[-1]}"
    assert (spark([], 9), spark([0, 0], 9)) == ("", BARS[0] * 2)


def test_what_controls_a_terminal_is_not_printed() -> None:
    assert plain("\x1b[31mred\x07\u202e").plain == "�[31mred��"
