"""The keys that a node counts most, as it publishes them for the other nodes."""

from typing import Final

import msgspec

from presence_server.throttle.talkers import Report

PUBLISHED_EVERY_S: Final = 5.0
KEPT_MS: Final = 15_000


class TalkersReport(msgspec.Struct, frozen=True):
    """The keys that one node counts most."""

    hits: Report
    refused: Report
