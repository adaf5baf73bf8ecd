"""URLs of the shared store, parsed and checked: a standalone server, Sentinels, or a Cluster.

    redis://[USER:PASSWORD@]HOST[:PORT][/DB]                    a standalone server
    unix://[USER:PASSWORD@]/PATH[?db=DB]                        the same over a unix socket
    redis+sentinel://[USER:PASSWORD@]HOST[:PORT],…/NAME[/DB]    the primary that these Sentinels know by a name
    redis+cluster://[USER:PASSWORD@]HOST[:PORT],…               the Cluster that these servers are part of

`rediss` in place of `redis` is TLS. Parameters follow a question mark, named as redis-py names them.
"""

import re
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import parse_qsl, unquote

PORT: Final = 6379
SENTINEL_PORT: Final = 26379
HOSTS_MAX: Final = 100
DB_MAX: Final = 65_535
_BAD_ESCAPE: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")


class Topology(Enum):
    """Whether the store is one server, the primary that Sentinels name, or the primaries of a Cluster."""

    STANDALONE = "redis"
    SENTINEL = "redis+sentinel"
    CLUSTER = "redis+cluster"


SCHEMES: Final = {
    "redis": (Topology.STANDALONE, False),
    "rediss": (Topology.STANDALONE, True),
    "unix": (Topology.STANDALONE, False),
    "redis+sentinel": (Topology.SENTINEL, False),
    "rediss+sentinel": (Topology.SENTINEL, True),
    "redis+cluster": (Topology.CLUSTER, False),
    "rediss+cluster": (Topology.CLUSTER, True),
}
TLS_FILES: Final = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
CERT_REQS: Final = ("required", "none")
BOOLEANS: Final = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
TLS_PARAMETERS: Final = (*TLS_FILES, "ssl_cert_reqs", "ssl_check_hostname")
SENTINEL_PARAMETERS: Final = ("sentinel_username", "sentinel_password", "sentinel_tls")
PARAMETERS: Final = ("db", "client_name", *TLS_PARAMETERS, *SENTINEL_PARAMETERS)


class Address(NamedTuple):
    """The host and port of a server."""

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


class StoreUrl(NamedTuple):
    """A parsed URL. `tls_options` and `client_name` have redis-py's names; "" and None: not given."""

    topology: Topology
    addresses: tuple[Address, ...]
    """Servers of a Cluster, Sentinels, or the one standalone server; none: `path`."""
    path: str
    """A unix socket."""
    tls: bool
    username: str | None
    password: str | None
    db: int
    client_name: str
    tls_options: Mapping[str, str | bool]
    service: str
    """The name by which Sentinels know the primary."""
    sentinel_tls: bool
    sentinel_username: str | None
    sentinel_password: str | None

    @property
    def place(self) -> str:
        """Say where the store is, without credentials."""
        return self.path or ",".join(map(str, self.addresses)) + (f"/{self.service}" if self.service else "")


def parse_store_url(url: str) -> StoreUrl:
    """Read a URL. Raises `ValueError`, which names the part that is wrong and repeats no password."""
    scheme, separator, rest = url.partition("://")
    if not separator or scheme not in SCHEMES:
        raise ValueError(f"expected {', '.join(f'{name}://' for name in SCHEMES)} and where the store is")
    topology, tls = SCHEMES[scheme]
    if "#" in rest:
        raise ValueError("there is a #, which begins no part of this URL; in a password write %23")
    if _BAD_ESCAPE.search(rest):
        raise ValueError("there is a % that begins no escape; in a password write %25")
    rest, _, query = rest.partition("?")
    place = rest.partition("/")[0] if scheme != "unix" else rest
    credentials, at, hosts = place.rpartition("@")
    username, colon, password = credentials.partition(":")
    path = rest[len(place) :] if scheme != "unix" else hosts
    if not at and "@" in path + query:
        raise ValueError("there is an @ behind a / or a ?; in a password write %2F and %3F")
    parameters = _parameters(query, topology, tls=tls)
    service, db = _path(path, scheme, parameters.pop("db", ""))
    if scheme == "unix" and not hosts.startswith("/"):
        raise ValueError("the path of the socket is missing: unix:///PATH")
    return StoreUrl(
        topology=topology,
        addresses=_addresses(hosts, topology, scheme) if scheme != "unix" else (),
        path=unquote(hosts) if scheme == "unix" else "",
        tls=tls,
        username=unquote(username) or None if at else None,
        password=unquote(password) if colon else None,
        db=db,
        client_name=parameters.get("client_name", ""),
        tls_options=_tls_options(parameters),
        service=service,
        sentinel_tls=_boolean("sentinel_tls", parameters.get("sentinel_tls", "true" if tls else "false")),
        sentinel_username=parameters.get("sentinel_username"),
        sentinel_password=parameters.get("sentinel_password"),
    )


def _parameters(query: str, topology: Topology, *, tls: bool) -> dict[str, str]:
    """Return the parameters after the question mark. Raises `ValueError` for one that has no place there."""
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query), max_num_fields=100)
    except ValueError:
        raise ValueError("the parameters after ? are not NAME=VALUE&NAME=VALUE") from None
    found: dict[str, str] = {}
    for name, value in pairs:
        if name not in PARAMETERS:
            raise ValueError(f'unknown parameter "{name}"; there are {", ".join(PARAMETERS)}')
        if name in found:
            raise ValueError(f"the parameter {name} is there twice")
        if not value:
            raise ValueError(f"the parameter {name} has no value")
        if name in SENTINEL_PARAMETERS and topology is not Topology.SENTINEL:
            raise ValueError(f"the parameter {name} is for redis+sentinel:// and rediss+sentinel://")
        if name in TLS_PARAMETERS and not tls:
            raise ValueError(f"the parameter {name} is for TLS: rediss in place of redis")
        found[name] = value
    return found


def _tls_options(parameters: Mapping[str, str]) -> dict[str, str | bool]:
    options: dict[str, str | bool] = {}
    for name in TLS_FILES:
        if name in parameters:
            try:
                Path(parameters[name]).read_bytes()
            except (OSError, ValueError) as exc:  # ValueError: a NUL in the name
                reason = getattr(exc, "strerror", exc)
                raise ValueError(f"{name}: cannot read {parameters[name]}: {reason}") from None
            options[name] = parameters[name]
    if "ssl_keyfile" in options and "ssl_certfile" not in options:
        raise ValueError("the parameter ssl_keyfile needs ssl_certfile, the certificate of this key")
    if "ssl_cert_reqs" in parameters:
        if parameters["ssl_cert_reqs"] not in CERT_REQS:
            raise ValueError(f"the parameter ssl_cert_reqs is one of {', '.join(CERT_REQS)}")
        options["ssl_cert_reqs"] = parameters["ssl_cert_reqs"]
        if options["ssl_cert_reqs"] == "none":
            options["ssl_check_hostname"] = False
    if "ssl_check_hostname" in parameters:
        options["ssl_check_hostname"] = _boolean("ssl_check_hostname", parameters["ssl_check_hostname"])
        if options["ssl_check_hostname"] and options.get("ssl_cert_reqs") == "none":
            raise ValueError("the parameter ssl_check_hostname needs ssl_cert_reqs=required")
    return options


def _boolean(name: str, text: str) -> bool:
    try:
        return BOOLEANS[text.lower()]
    except KeyError:
        raise ValueError(f"the parameter {name} is true or false") from None


def _path(path: str, scheme: str, db: str) -> tuple[str, int]:
    """Return the service name and the database."""
    topology = SCHEMES[scheme][0]
    parts = [unquote(part) for part in path.split("/")[1:] if part] if scheme != "unix" else []
    service = ""
    if topology is Topology.SENTINEL:
        if not parts:
            raise ValueError(f"the name of the primary is missing: {scheme}://HOST,HOST/NAME")
        service = parts.pop(0)
    if len(parts) > 1 or (parts and db):
        raise ValueError("there is more in the path than a database")
    db = parts[0] if parts else db or "0"
    if not (db.isascii() and db.isdigit() and len(db) < 6 and int(db) <= DB_MAX):
        raise ValueError(f'the database "{db}" is no number from 0 to {DB_MAX}')
    if int(db) and topology is Topology.CLUSTER:
        raise ValueError("a Cluster has no database but 0")
    return service, int(db)


def _addresses(hosts: str, topology: Topology, scheme: str) -> tuple[Address, ...]:
    many = topology is not Topology.STANDALONE
    shape = f"{scheme}://HOST:PORT,HOST:PORT" if many else f"{scheme}://HOST:PORT"
    if not hosts:
        raise ValueError(f"the host is missing: {shape}")
    parts = hosts.split(",")
    if not many and len(parts) > 1:
        raise ValueError("several hosts are for redis+sentinel:// and redis+cluster://")
    if len(parts) > HOSTS_MAX:
        raise ValueError(f"there are more than {HOSTS_MAX} hosts")
    port = SENTINEL_PORT if topology is Topology.SENTINEL else PORT
    return tuple(dict.fromkeys(_address(part, port, shape) for part in parts))


def _address(text: str, default_port: int, shape: str) -> Address:
    found = re.fullmatch(r"(\[[0-9A-Fa-f:.%]+\]|[^\[\]:]*)(?::([^:]*))?", text)
    if found is None:
        raise ValueError(f'"{text}" is no HOST:PORT; an IPv6 address has brackets: [::1]:{default_port}')
    host, port = unquote(found[1]).strip("[]"), found[2]
    if not host:
        raise ValueError(f'a host is missing in "{text}": {shape}')
    if re.search(r"\s", host):
        raise ValueError(f'"{text}": a host has no spaces')
    if port is None:
        return Address(host, default_port)
    if not (port.isascii() and port.isdigit() and len(port) < 6 and 0 < int(port) < 65_536):
        raise ValueError(f'"{text}": the port is a number from 1 to 65535')
    return Address(host, int(port))
