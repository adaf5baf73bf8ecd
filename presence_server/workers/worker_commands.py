"""The lines that a supervisor writes to a worker's standard input, as JSON: an `Assignment`, then `WorkerCommand`s."""

from typing import Literal

import msgspec

from presence_server.config.settings import Settings


class Assignment(msgspec.Struct):
    """The first line. `settings` name the port and the store as they are; `api_path` is the worker's internal port."""

    number: int
    settings: Settings
    api_path: str
    supervisor: int
    """The supervisor's process id."""


class WorkerCommand(msgspec.Struct):
    """Any later line. With `reload` come the settings to go by."""

    does: Literal["drain", "stop", "reload"]
    settings: Settings | None = None
