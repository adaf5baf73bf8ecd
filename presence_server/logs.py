"""Logs on standard error: text for people, or one JSON object a line.

Values of local variables never appear, since tokens and message bodies are among them.
"""

import logging
import sys
from typing import Any, TextIO

import structlog
from structlog.typing import EventDict

from presence_server.config.settings import LogFormat, LogLevel

QUIET = ("websockets.server", "websockets.client", "uvicorn.access")
"""Loggers whose lines below WARNING repeat, for every connection, its address or its URL."""


class FloodLog:
    """One event that clients can cause as often as they like: at most one line a second, with a count.

    The first line says what happened; the next one, a second later at the earliest, how often it happened since.
    """

    def __init__(self, logger: str, event: str, level: str = "info") -> None:
        self._log = structlog.get_logger(logger)
        self._level = level
        self._event = event
        self._quiet = False
        self._unsaid = 0
        self._last: dict[str, object] = {}
        _floods.append(self)

    def note(self, **fields: object) -> None:
        """Log the event, or count it for the next line."""
        if self._quiet:
            self._unsaid += 1
            self._last = fields
        else:
            self._quiet = True
            self._say(fields)

    def next_second(self) -> None:
        """Log what was counted, with the fields of the last time; let the next line come."""
        unsaid, self._unsaid = self._unsaid, 0
        self._quiet = unsaid > 0
        if unsaid:
            self._say({**self._last, "times": unsaid})
            self._last = {}

    def _say(self, fields: dict[str, object]) -> None:
        # Looked up late: a logger that is asked for its methods before `configure` keeps what was set up then.
        getattr(self._log, self._level)(self._event, **fields)


_floods: list[FloodLog] = []


def flush_floods() -> None:
    """Let every `FloodLog` say what it has counted; to be called once a second."""
    for flood in _floods:
        flood.next_second()


def configure(
    stream: TextIO | None = None,
    *,
    level: LogLevel = "info",
    form: LogFormat = "auto",
    worker: int | None = None,
) -> None:
    """Send structlog and the standard library's logging through one renderer to `stream`.

    The stream is standard error unless one is given. Each line of one of several workers has its number. Calling it
    again replaces what it set up before.
    """

    def add_worker(logger: object, method: str, event: EventDict) -> EventDict:
        del logger, method
        if worker is not None:
            event["worker"] = worker
        return event

    stream = sys.stderr if stream is None else stream
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        add_worker,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared[:4], structlog.stdlib.ExtraAdder(allow=()), *shared[4:]],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *_renderer(stream, form)],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    set_level(level)
    for name in QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)


def set_level(level: LogLevel) -> None:
    """Write lines of this level and above from now on."""
    logging.getLogger().setLevel(level.upper())


def _renderer(stream: TextIO, form: LogFormat) -> list[Any]:
    if form == "text" or (form == "auto" and stream.isatty()):
        # The default shows the local variables of every frame where `rich` is installed.
        plain = structlog.dev.plain_traceback
        return [structlog.dev.ConsoleRenderer(colors=stream.isatty(), exception_formatter=plain)]
    return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
