"""The exceptions of the server, by whose fault they are.

PresenceError
├── ConfigError        the operator's: the settings cannot be used
├── ListenError        the operator's: an address that the settings name cannot be had
├── RequestError       the client's: one request is refused, the connection goes on
├── BansFullError      the backend's: it has banned as many as can be
└── StoreAwayError     nobody's here: the shared store is out of reach; trying again can help
"""

from collections.abc import Sequence


class PresenceError(Exception):
    """Base of everything that this package raises on purpose."""


class ConfigError(PresenceError):
    """Settings that cannot be used; `problems` names each one with its key and place."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = list(problems)


class ListenError(PresenceError):
    """An address that cannot be listened on; the text names the setting, the reason, and what to try."""


class RequestError(PresenceError):
    """A refusal of one request.

    `code` is one of the protocol's error codes; `request_id` is the request's `id` where it could be
    read; `room` where it is about one; `v` is the present version after a conflict; `retry_after_ms` is when
    to try again after too many.
    """

    def __init__(
        self,
        code: str,
        message: str,
        *,
        request_id: int | None = None,
        room: str | None = None,
        v: int | None = None,
        retry_after_ms: int | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.request_id = request_id
        self.room = room
        self.v = v
        self.retry_after_ms = retry_after_ms


class BansFullError(PresenceError):
    """There are as many bans as there may be; nothing was done."""

    def __init__(self) -> None:
        super().__init__("there are as many bans as there may be; lift some")


class StoreAwayError(PresenceError):
    """The shared store is out of reach, and this cannot be done without it."""

    def __init__(self) -> None:
        super().__init__("the shared store is out of reach; try again")
