"""The floor of fan-out: a bare loop of `socket.send` over TCP sockets.

    python -m bench.peers.floor CONNECTIONS BYTES

The first connection is the trigger: each byte that comes on it sends `BYTES` bytes on each of the other
`CONNECTIONS`. Ends when the trigger does.
"""

import socket
import sys

BACKLOG = 4_096


def main() -> None:
    """Listen, say where, and send."""
    connections, size = int(sys.argv[1]), int(sys.argv[2])
    payload = bytes(size)
    with socket.create_server(("127.0.0.1", 0), backlog=BACKLOG) as listener:
        sys.stdout.write("ready client={}:{}\n".format(*listener.getsockname()))
        sys.stdout.flush()
        trigger, _ = listener.accept()
        sockets = []
        for _ in range(connections):
            sock, _ = listener.accept()
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sockets.append(sock)
    while times := len(trigger.recv(256)):
        for _ in range(times):
            for sock in sockets:
                sock.send(payload)


if __name__ == "__main__":
    main()
