"""The parts of a node that its rooms and its connections need."""

from typing import NamedTuple

from presence_server.clock import Clock
from presence_server.config.settings import LimitsSettings, PresenceSettings


class NodeContext(NamedTuple):
    """One node: its id, which its members' records bear, its clock, and its limits."""

    node: str
    clock: Clock
    presence: PresenceSettings
    limits: LimitsSettings
