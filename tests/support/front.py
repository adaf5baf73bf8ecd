"""The files of `deploy/` in front of nodes of this machine.

What their first lines say is to be changed is changed: nodes, ports and paths. Everything else is as it is there, but
for `changes`, which a test asks for.
"""

import ssl
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, Self

from tests.support.daemon import LOOPBACK, Daemon, find_program, free_port
from tests.support.nginx import Nginx
from tests.support.node import PROJECT

DEPLOY: Final = PROJECT / "deploy"
CERTIFICATE: Final = PROJECT / "tests" / "config" / "tls" / "cert.pem"
KEY: Final = CERTIFICATE.with_name("key.pem")
HOSTS: Final = ("127.0.0.11", "127.0.0.12", "127.0.0.13")
"""Where nodes listen, all on the same ports, as on machines of their own."""
KINDS: Final = ("haproxy", "nginx")


class Front:
    """One proxy in front of nodes on `hosts`, all with the same ports. TLS ends in it if it is one of `KINDS`."""

    def __init__(
        self,
        kind: str,
        hosts: Sequence[str],
        port: int,
        api_port: int,
        changes: Mapping[str, str] | None = None,
    ) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="presence-")
        front = free_port()
        bind = f"{LOOPBACK}:{front}"
        self.tls: ssl.SSLContext | None = None
        if kind in KINDS:
            self.tls = ssl.create_default_context(cafile=CERTIFICATE)
            self.tls.check_hostname = False
        self.url = f"{'wss' if self.tls else 'ws'}://{bind}/ws"
        ports = {":8080": f":{port}", ":8081": f":{api_port}"}
        self._daemon: Daemon
        if kind.startswith("haproxy"):
            nodes = for_each(read("haproxy/presence.cfg"), hosts, "node1", "node2")
            changed = {":8080": f":{port}", "port 8081": f"port {api_port}"} | dict(changes or {})
            if self.tls is None:
                frontend = replaced(read("haproxy/frontend-plain.cfg"), {":80": bind})
            else:
                pem = self._file("presence.pem", CERTIFICATE.read_text() + KEY.read_text())
                frontend = replaced(
                    read("haproxy/frontend-tls.cfg"),
                    {":443": bind, ":80": f"{LOOPBACK}:{free_port()}", "/etc/haproxy/presence.pem": pem},
                )
            files = (
                self._file("presence.cfg", replaced(nodes, changed)),
                self._file("frontend.cfg", frontend),
            )
            self._daemon = Daemon([find_program("haproxy"), "-db", "-f", files[0], "-f", files[1]], front)
        elif kind == "caddy":
            nodes = replaced(
                read("caddy/Caddyfile"),
                {
                    "10.0.0.11:8080 10.0.0.12:8080": " ".join(f"{host}:{port}" for host in hosts),
                    "health_port 8081": f"health_port {api_port}",
                    "presence.example.com": f"http://{bind}",
                },
            )
            file = self._file("Caddyfile", "{\n\tadmin off\n}\n" + nodes)  # its port is the same for all
            self._daemon = Daemon(
                [find_program("caddy"), "run", "--adapter", "caddyfile", "--config", file], front
            )
        else:
            paths = {"/etc/nginx/presence.crt": str(CERTIFICATE), "/etc/nginx/presence.key": str(KEY)}
            listens = {
                "listen 443": f"listen {bind}",
                "listen 80;": f"listen {LOOPBACK}:{free_port()};",
            }
            text = for_each(read("nginx/presence.conf"), hosts, "10.0.0.11", "10.0.0.12")
            self._daemon = Nginx(replaced(text, ports | paths | listens | dict(changes or {})), front)

    def __enter__(self) -> Self:
        self._daemon.__enter__()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._daemon.__exit__(*exc_info)
        self._folder.cleanup()

    def _file(self, name: str, text: str) -> str:
        path = Path(self._folder.name) / name
        path.write_text(text)
        return str(path)


def read(name: str) -> str:
    """Return a file of `deploy/`, without its comments: they may name what is replaced, too."""
    lines = (DEPLOY / name).read_text(encoding="utf-8").splitlines()
    return "".join(f"{line}\n" for line in lines if not line.strip().startswith("#"))


def for_each(text: str, hosts: Sequence[str], first: str, second: str) -> str:
    """Repeat the lines about the first node for each host, and leave those about the second out."""
    lines: list[str] = []
    for line in text.splitlines():
        if first in line:
            lines += [_of_node(line, first, number, host) for number, host in enumerate(hosts, 1)]
        elif second not in line:
            lines.append(line)
    return "\n".join(lines) + "\n"


def _of_node(line: str, first: str, number: int, host: str) -> str:
    """Write a line for another node; where nodes have names, the line has one and then the address."""
    if first == "node1":
        line = line.replace("server node1", f"server n{number}")
    return line.replace(first, host)


def replaced(text: str, changes: Mapping[str, str]) -> str:
    """Replace each of these, which must be there."""
    for old, new in changes.items():
        assert old in text, f"{old!r} is not in the file"
        text = text.replace(old, new)
    return text
