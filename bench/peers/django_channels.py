"""A server on Django Channels, as its tutorial says: python -m bench.peers.django_channels [URL].

The chat consumer of the tutorial, asynchronous: a room is a group, the path names it, and whoever sends a message is
told it, too. There is no list of members. With the URL of a store the channel layer is that of channels_redis, without
one the layer in memory. On uvicorn and uvloop. Runs until it is killed.
"""

import sys
from typing import Any

import django
from django.conf import settings

layer: dict[str, Any] = {"BACKEND": "channels.layers.InMemoryChannelLayer"}
if sys.argv[1:]:
    # redis-py 8 has 100 connections and 5 s, which fail clients when many come at once.
    host = {"address": sys.argv[1], "max_connections": 4_096, "socket_timeout": 60}
    layer = {"BACKEND": "channels_redis.core.RedisChannelLayer", "CONFIG": {"hosts": [host]}}
settings.configure(CHANNEL_LAYERS={"default": layer}, ALLOWED_HOSTS=["*"], SECRET_KEY="a peer")  # noqa: S106  # signs nothing
django.setup()

import json  # noqa: E402  # channels asks for the settings when it is imported

from channels.generic.websocket import AsyncWebsocketConsumer  # noqa: E402 - after the settings
from channels.routing import ProtocolTypeRouter, URLRouter  # noqa: E402 - after the settings
from django.urls import re_path  # noqa: E402 - after the settings

from bench.peers.asgi import serve  # noqa: E402 - after the settings


class Chat(AsyncWebsocketConsumer):  # type: ignore[misc]  # channels
    """A client in one room."""

    async def connect(self) -> None:
        """Enter the room."""
        self.room = "chat_" + self.scope["url_route"]["kwargs"]["room"]
        await self.channel_layer.group_add(self.room, self.channel_name)
        await self.accept()

    async def disconnect(self, code: int) -> None:
        """Leave it."""
        del code
        await self.channel_layer.group_discard(self.room, self.channel_name)

    async def receive(self, text_data: str) -> None:
        """Tell everybody."""
        message = json.loads(text_data)["message"]
        await self.channel_layer.group_send(self.room, {"type": "chat.message", "message": message})

    async def chat_message(self, event: dict[str, str]) -> None:
        """Tell this client."""
        await self.send(text_data=json.dumps({"message": event["message"]}))


if __name__ == "__main__":
    serve(
        ProtocolTypeRouter(
            {"websocket": URLRouter([re_path(r"ws/chat/(?P<room>[\w-]+)/$", Chat.as_asgi())])},
        )
    )
