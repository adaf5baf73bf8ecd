"""The settings: what they are, where they come from, and whether they fit together."""

from presence_server.config.check import warnings
from presence_server.config.load import load
from presence_server.config.settings import (
    ApiSettings,
    AuthSettings,
    LimitsSettings,
    LogSettings,
    PresenceSettings,
    ProxySettings,
    RedisSettings,
    RoomSettings,
    ServerSettings,
    Settings,
    ThrottleRule,
    ThrottleSettings,
)

__all__ = [
    "ApiSettings",
    "AuthSettings",
    "LimitsSettings",
    "LogSettings",
    "PresenceSettings",
    "ProxySettings",
    "RedisSettings",
    "RoomSettings",
    "ServerSettings",
    "Settings",
    "ThrottleRule",
    "ThrottleSettings",
    "load",
    "warnings",
]
