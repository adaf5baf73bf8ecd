"""A client in a process of its own, for SIGSTOP: `python -m tests.support.follower URL ROOM`.

It joins the room and writes one JSON line whenever something has come: the roster, by cid and state, and all
messages so far. It reads as fast as it can, and reconnects never.
"""

import json
import socket
import sys
from typing import Any
from urllib.parse import urlsplit

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

RECEIVE_BYTES = 4_096


def follow(url: str, room: str) -> None:
    """Write what happens in a room until the connection ends."""
    address = urlsplit(url)
    raw = socket.socket()
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BYTES)
    raw.connect((address.hostname, address.port))
    roster: dict[str, Any] = {}
    messages: list[Any] = []
    syncs = 0
    with connect(url, sock=raw, compression=None, max_queue=1, ping_interval=None) as client:
        client.send(json.dumps({"t": "join", "room": room, "id": 1}))
        try:
            for text in client:
                message = json.loads(text)
                if message["t"] == "sync":
                    roster = {member["cid"]: member["state"] for member in message["members"]}
                    syncs += 1
                elif message["t"] == "diff":
                    apply(roster, message)
                elif message["t"] == "message":
                    messages.append(message["data"])
                said = {"t": message["t"], "roster": roster, "messages": messages, "syncs": syncs}
                print(json.dumps(said), flush=True)
        except ConnectionClosed as closed:
            print(json.dumps({"t": "closed", "code": closed.rcvd.code if closed.rcvd else None}), flush=True)


def apply(roster: dict[str, Any], diff: dict[str, Any]) -> None:
    """Move a roster, states by cid, by a diff."""
    for member in diff.get("joins", ()):
        roster[member["cid"]] = member["state"]
    for update in diff.get("updates", ()):
        if update["cid"] in roster:
            roster[update["cid"]] = update["state"]
    for leave in diff.get("leaves", ()):
        roster.pop(leave["cid"], None)


if __name__ == "__main__":
    follow(*sys.argv[1:])
