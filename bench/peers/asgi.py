"""An ASGI application on uvicorn, as a peer is started: one process that says where it listens."""

import asyncio
import socket
import sys
from typing import Any

import uvicorn

BACKLOG = 4_096


def serve(application: Any) -> None:
    """Serve it on a free port until the process is killed."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=BACKLOG)
    sys.stdout.write("ready client={}:{}\n".format(*listener.getsockname()))
    sys.stdout.flush()
    config = uvicorn.Config(application, log_level="error", lifespan="off", backlog=BACKLOG)
    with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
        runner.run(uvicorn.Server(config).serve(sockets=[listener]))
