"""Tell Kubernetes whether new clients may be sent to this node: exit code 0 or 1.

    ready.py OWN_PORT PEERS        PEERS: HOST:PORT, or several with commas; a host stands for all its addresses

A node that reaches the store is ready. One that does not serves its own clients: it is ready where no other node
reaches the store either, because otherwise the loss of the store would keep everybody new out; where another one
does, it is not.
"""

import http.client
import random
import socket
import sys
from concurrent.futures import ThreadPoolExecutor, as_completed

TIMEOUT_S = 1.0
PEERS_MAX = 8
"""Others that are asked: one that reaches the store is enough."""


def is_ok(host: str, port: int, path: str) -> bool:
    """Tell whether a probe is answered with 200 in time."""
    connection = http.client.HTTPConnection(host, port, timeout=TIMEOUT_S)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def addresses(peers: str) -> list[tuple[str, int]]:
    """Return where other nodes are; this one may be among them."""
    found = set()
    for peer in peers.split(","):
        host, _, port = peer.rpartition(":")
        try:
            resolved = socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM)
        except OSError:
            continue
        found |= {(str(address[0]), int(address[1])) for *_, address in resolved}
    return random.sample(sorted(found), min(PEERS_MAX, len(found)))


def main(own_port: int, peers: str) -> int:
    """Ask this node, and others where it is isolated."""
    if is_ok("127.0.0.1", own_port, "/readyz"):
        return 0
    if not is_ok("127.0.0.1", own_port, "/readyz?isolated=ok"):
        print("not ready, and not only because of the store: /readyz says why")
        return 1
    others = addresses(peers)
    with ThreadPoolExecutor(PEERS_MAX) as asking:
        answers = [asking.submit(is_ok, host, port, "/readyz") for host, port in others]
        if any(answer.result() for answer in as_completed(answers)):
            print("isolated, while another node reaches the store")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2]))
