"""The limiter under gunicorn: workers that are forked, threads in each, one limit for all."""

import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.docs.pages import PROJECT
from tests.support.redis_server import RedisServer

pytestmark = pytest.mark.one_kind

DEADLINE_S = 60
LIMIT = 50
APPLICATION = """
import os
from presence_server.throttle import Rule, SyncLimiter
from presence_server.throttle.wsgi import WsgiThrottle

limiter = SyncLimiter([Rule("api", "{limit}/1h"), Rule("master", "9/1h")], redis={url!r}, deadline_ms=20_000)
{before}

def who(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(os.getpid()).encode()]


application = WsgiThrottle(who, limiter, {{"/free": None, "*": "api"}})
"""


@contextmanager
def gunicorn(directory: Path, text: str, *options: str) -> Iterator[str]:
    """Run the application; give its address."""
    (directory / "limited.py").write_text(text)
    command = [sys.executable, "-m", "gunicorn", "-b", "127.0.0.1:0", "--chdir", str(directory), *options]
    environment = {"PYTHONPATH": str(PROJECT), "HOME": str(directory)}
    with subprocess.Popen(
        [*command, "limited:application"], stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stderr is not None
        lines: list[str] = []
        try:
            for line in process.stderr:
                lines.append(line)
                if listening := re.search(r"Listening at: (http://\S+)", line):
                    break
            else:
                raise AssertionError("".join(lines))
            threading.Thread(target=process.stderr.read, daemon=True).start()
            yield listening[1]
        finally:
            process.terminate()
            assert process.wait(DEADLINE_S) == 0


@pytest.mark.parametrize(
    ("options", "before"),
    [(["--preload"], 'limiter.hit("master", "k")'), (["--preload"], ""), ([], "")],
    ids=["used before the fork", "made before the fork", "made by each worker"],
)
def test_workers_and_their_threads_are_held_to_one_limit(
    empty_server: RedisServer, tmp_path: Path, options: list[str], before: str
) -> None:
    text = APPLICATION.format(limit=LIMIT, url=empty_server.url, before=before)
    with (
        gunicorn(tmp_path, text, "--workers", "3", "--threads", "4", *options) as address,
        httpx.Client(base_url=address, timeout=DEADLINE_S, headers={"Connection": "close"}) as asking,
        ThreadPoolExecutor(16) as threads,
    ):

        def ask(path: str) -> httpx.Response:
            return asking.get(path)

        seen: set[str] = set()
        while len(seen) < 3:
            seen |= {answer.text for answer in threads.map(ask, ["/free"] * 16)}
        answers = list(threads.map(ask, ["/"] * 4 * LIMIT))
        assert sum(answer.status_code == 200 for answer in answers) == LIMIT
        assert {answer.status_code for answer in answers} == {200, 429}
        assert asking.get("/").status_code == 429
