"""Rules that go beyond a single value's type and limits, and warnings about settings that can be used.

Each rule yields what it finds wrong and the keys that it is about; the loader adds their places.
"""

import contextlib
import os
import socket
import ssl
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec

from presence_server.config.addresses import is_host, is_loopback, is_network, is_origin
from presence_server.config.cores import cores_available, worker_count
from presence_server.config.embedded import embedded_store
from presence_server.config.globs import valid_glob
from presence_server.config.open_files import RESERVED, open_files_max
from presence_server.config.settings import (
    SECTIONS,
    AuthSettings,
    ServerSettings,
    Settings,
    ThrottleRule,
    ThrottleSettings,
)
from presence_server.config.store_url import parse_store_url
from presence_server.rates import LOG_MAX, parse_rate, zone_of

OWN_RULES = frozenset(("connect", "resume", "resume_cid", "messages", "updates", "publishes", "concurrent"))
SECRET_BYTES_MIN = 32
JWT_ONLY = tuple(
    name
    for name in AuthSettings.__struct_fields__
    if name not in {"mode", "resume_secret", "resume_secret_file"}
)
SOCKET_PATH_MAX = 103
"""Bytes of a unix socket's path: 104 on macOS, 108 on Linux, with a NUL at its end."""
SOCKET_NAMES = "presence-server-12345678/worker-1024"
"""The part of the longest socket path that is below the folder."""


class Violation(NamedTuple):
    """A rule that the settings break: the keys that it is about, the one to change first, and why."""

    keys: tuple[str, ...]
    text: str


def violations(settings: Settings) -> Iterator[Violation]:
    """Yield every rule that the settings break on this machine."""
    yield from _hosts(settings)
    yield from _tls(settings.server)
    yield from _workers(settings)
    yield from _open_files(settings)
    yield from _relations(settings)
    yield from _lists(settings)
    yield from _rates(settings.throttle)
    yield from _redis(settings)
    yield from _globs(settings)
    yield from _auth(settings.auth)


def _hosts(settings: Settings) -> Iterator[Violation]:
    server = settings.server
    for key, host in (("server.host", server.host), ("server.api_host", server.api_host)):
        if not is_host(host):
            yield Violation((key,), f'"{host}" is no IP address (without brackets) and no host name')
    if not is_loopback(server.api_host) and not (settings.api.key or settings.api.key_file):
        yield Violation(
            ("server.api_host", "api.key", "api.key_file"),
            f'"{server.api_host}" is not a loopback address, so the internal port needs api.key',
        )
    if server.port == server.api_port != 0 and server.host == server.api_host:
        yield Violation(
            ("server.api_port", "server.port", "server.host", "server.api_host"),
            f"server.port and server.api_port are both {server.port} on {server.host}; they must differ",
        )


def _tls(server: ServerSettings) -> Iterator[Violation]:
    if not server.tls_cert and not server.tls_key:
        return
    if not (server.tls_cert and server.tls_key):
        here, other = ("tls_cert", "tls_key") if server.tls_cert else ("tls_key", "tls_cert")
        yield Violation((f"server.{here}", f"server.{other}"), f"server.{other} must be set too, or neither")
        return
    unreadable = False
    for key, name in (("server.tls_cert", server.tls_cert), ("server.tls_key", server.tls_key)):
        try:
            Path(name).read_bytes()
        except (OSError, ValueError) as exc:  # ValueError: a NUL in the name
            unreadable = True
            yield Violation((key,), f"cannot read {name}: {getattr(exc, 'strerror', exc)}")
    if unreadable:
        return
    try:
        # Without a password callback OpenSSL would ask for a passphrase on the terminal.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(
            server.tls_cert, server.tls_key, password=lambda: ""
        )
    except (ssl.SSLError, OSError) as exc:
        yield Violation(
            ("server.tls_cert", "server.tls_key"),
            f"{server.tls_cert} and {server.tls_key} are not a PEM certificate and its private key "
            f"without a passphrase: {exc.strerror or exc}",
        )


def _workers(settings: Settings) -> Iterator[Violation]:
    server = settings.server
    cores, workers = cores_available(), worker_count(server)
    if workers > cores:
        which = f"{cores} cores" if cores > 1 else "1 core"
        yield Violation(
            ("server.workers",),
            f'{workers} workers, and this process may use {which}: set "auto", or {cores} or less',
        )
    if workers == 1:
        return
    if not hasattr(socket, "SO_REUSEPORT") or not hasattr(socket, "AF_UNIX"):
        yield Violation(("server.workers",), "several workers cannot share a port on this platform; set 1")
    if not settings.redis.url and embedded_store() is None:
        yield Violation(
            ("server.workers", "redis.url"),
            "several workers need a store: set redis.url, or install the embedded one: "
            "pip install '.[embedded]' in the project's folder",
        )
    yield from _socket_folder(server.socket_dir)


def _socket_folder(place: str) -> Iterator[Violation]:
    try:
        folder = Path(place or tempfile.gettempdir())
    except OSError:
        yield Violation(
            ("server.socket_dir",),
            "there is no folder for temporary files that can be written to: name one for sockets",
        )
        return
    longest = len(os.fsencode(folder.absolute() / ("x" * len(SOCKET_NAMES))))
    if not folder.is_dir():
        yield Violation(("server.socket_dir",), f"{folder} is no folder")
    elif not os.access(folder, os.W_OK | os.X_OK):
        yield Violation(("server.socket_dir",), f"{folder} cannot be written to")
    elif longest > SOCKET_PATH_MAX:
        yield Violation(
            ("server.socket_dir",),
            f"{folder} is too long: the path of a socket has at most {SOCKET_PATH_MAX} bytes",
        )


def _open_files(settings: Settings) -> Iterator[Violation]:
    highest, connections = open_files_max(), settings.server.max_connections
    others = settings.limits.pending + RESERVED
    needed = connections + others
    if highest is not None and highest < needed:
        lower = f"set server.max_connections to {highest - others} or less, or " if highest > others else ""
        yield Violation(
            ("server.max_connections", "limits.pending"),
            f"{connections} connections need {needed} open files and this process may have "
            f"{highest}; {lower}raise the hard limit (ulimit -Hn, LimitNOFILE= in systemd)",
        )


def _relations(settings: Settings) -> Iterator[Violation]:
    presence, limits = settings.presence, settings.limits
    if presence.heartbeat_ms * 3 > presence.ttl_ms:
        yield Violation(
            ("presence.heartbeat_ms", "presence.ttl_ms"),
            f"3 times presence.heartbeat_ms ({presence.heartbeat_ms}) must not be more than "
            f"presence.ttl_ms ({presence.ttl_ms})",
        )
    if settings.proxy.protocol and settings.server.tls_cert:
        yield Violation(
            ("proxy.protocol", "server.tls_cert"),
            "a PROXY header comes before TLS, which this server does not read: end TLS at the proxy",
        )
    if limits.outbox_soft_bytes >= limits.outbox_hard_bytes:
        yield Violation(
            ("limits.outbox_soft_bytes", "limits.outbox_hard_bytes"),
            f"limits.outbox_soft_bytes ({limits.outbox_soft_bytes}) must be less than "
            f"limits.outbox_hard_bytes ({limits.outbox_hard_bytes})",
        )


def _lists(settings: Settings) -> Iterator[Violation]:
    for key, networks in (
        ("throttle.allow", settings.throttle.allow),
        ("proxy.trusted", settings.proxy.trusted),
    ):
        for text in networks:
            if not is_network(text):
                yield Violation((key,), f'"{text}" is no IP address and no network such as 10.0.0.0/8')
    for origin in settings.server.origins:
        if not is_origin(origin):
            yield Violation(
                ("server.origins",),
                f'"{origin}" is no origin: write scheme://host or scheme://host:port, in lower case, '
                "without a path",
            )


def _rates(throttle: ThrottleSettings) -> Iterator[Violation]:
    limits = [
        (f"throttle.{name}", getattr(throttle, name), throttle.algorithm)
        for name in ("connect", "resume", "updates", "publishes")
    ]
    limits.append(("throttle.messages", throttle.messages, "bucket"))
    limits += [
        (f"throttle.rules[{n}].limit", rule.limit, rule.algorithm) for n, rule in enumerate(throttle.rules)
    ]
    for key, text, algorithm in limits:
        try:
            rate = parse_rate(text)
        except ValueError as exc:
            yield Violation((key,), f'"{text}" is no rate: {exc}')
            continue
        if rate is None:
            continue
        if algorithm == "sliding" and rate.count > LOG_MAX:
            yield Violation((key,), f'"{text}": a sliding log counts to {LOG_MAX} at most')
        if rate.burst is not None and algorithm != "bucket":
            algorithm_key = key.replace(".limit", ".algorithm") if ".rules" in key else "throttle.algorithm"
            yield Violation(
                (key, algorithm_key),
                f'"{text}": burst belongs to the token bucket ("bucket"), '
                f'and {algorithm_key} is "{algorithm}"',
            )
        if rate.period is not None and algorithm != "fixed":
            yield Violation(
                (key,), f'"{text}": only the fixed window counts by the calendar; write 24h for any day'
            )
    yield from _rules(throttle)


def _rules(throttle: ThrottleSettings) -> Iterator[Violation]:
    names: set[str] = set()
    for n, rule in enumerate(throttle.rules):
        if rule.name in OWN_RULES:
            yield Violation((f"throttle.rules[{n}].name",), f'"{rule.name}" is a limit of this server itself')
        if rule.name in names:
            yield Violation((f"throttle.rules[{n}].name",), f'"{rule.name}" names an earlier rule already')
        if rule.tz != "UTC":
            yield from _time_zone(f"throttle.rules[{n}]", rule)
        names.add(rule.name)


def _time_zone(key: str, rule: ThrottleRule) -> Iterator[Violation]:
    try:
        zone_of(rule.tz)
    except ValueError as exc:
        yield Violation((f"{key}.tz",), str(exc))
    with contextlib.suppress(ValueError):
        rate = parse_rate(rule.limit)
        if rate is not None and rate.period is None:
            yield Violation(
                (f"{key}.tz", f"{key}.limit"), f'"{rule.limit}" is no calendar quota, such as 1000/day'
            )


def _redis(settings: Settings) -> Iterator[Violation]:
    if settings.redis.url:
        try:
            parse_store_url(settings.redis.url)
        except ValueError as exc:
            yield Violation(("redis.url",), str(exc))


def _globs(settings: Settings) -> Iterator[Violation]:
    for n, room in enumerate(settings.rooms):
        if not valid_glob(room.pattern):
            yield Violation(
                (f"rooms[{n}].pattern",),
                f'"{room.pattern}" is no glob: write 1 to 164 of A-Z a-z 0-9 _ - = @ , . ; : / + * ?',
            )


def _auth(auth: AuthSettings) -> Iterator[Violation]:
    """Yield what would let nobody in: an algorithm that there is no key for."""
    if auth.public_key:
        from presence_server.config.public_key import read_public_key  # noqa: PLC0415 - few need cryptography

        try:
            read_public_key(auth.public_key)
        except OSError as exc:
            yield Violation(("auth.public_key",), f"cannot read {auth.public_key}: {exc.strerror}")
        except ValueError as exc:
            yield Violation(("auth.public_key",), str(exc))
    if auth.jwks_url and not auth.jwks_url.startswith(("https://", "http://")):
        yield Violation(("auth.jwks_url",), f'"{auth.jwks_url}" is no http:// or https:// URL')
    if auth.mode != "jwt":
        return
    for algorithm in auth.algorithms:
        if algorithm.startswith("HS"):
            if not (auth.secret or auth.secrets):
                yield Violation(
                    ("auth.algorithms", "auth.secret", "auth.mode"),
                    f"{algorithm} needs auth.secret, which is not set",
                )
        elif not (auth.public_key or auth.jwks_url):
            yield Violation(
                ("auth.algorithms", "auth.public_key", "auth.jwks_url"),
                f"{algorithm} needs auth.public_key or auth.jwks_url; neither is set",
            )


def is_shared(settings: Settings) -> bool:
    """Tell whether the node shares its rooms with others."""
    return bool(settings.redis.url)


def warnings(settings: Settings) -> list[str]:
    """Say what the settings allow and an operator should know: one line each, at most one a section."""
    lines = [
        f"{', '.join(keys)}: {text}"
        for keys, text in (
            (_idle(settings), f'has no effect while auth.mode is "{settings.auth.mode}"'),
            (
                _short_secrets(settings.auth),
                f"shorter than {SECRET_BYTES_MIN} bytes: it can be guessed (RFC 7518, 3.2)",
            ),
        )
        if keys
    ]
    if settings.auth.mode == "none" and not is_loopback(settings.server.host):
        lines.append(
            f'DANGER: auth.mode is "none" and server.host is "{settings.server.host}": '
            "anybody who can reach the client port can be any user"
        )
    return lines


def _idle(settings: Settings) -> list[str]:
    """Name the keys that say how tokens are checked while none are."""
    return _changed(settings, "auth", JWT_ONLY) if settings.auth.mode != "jwt" else []


def _short_secrets(auth: AuthSettings) -> list[str]:
    if auth.mode != "jwt":
        return []
    named = [("auth.secret", auth.secret), *(("auth.secrets", secret) for secret in auth.secrets)]
    return sorted({name for name, secret in named if 0 < len(secret.encode()) < SECRET_BYTES_MIN})


def _changed(settings: Settings, section: str, names: tuple[str, ...] | None = None) -> list[str]:
    """Name the keys of a section that are not at their defaults."""
    present, default = getattr(settings, section), SECTIONS[section]()
    return [
        f"{section}.{field.name}"
        for field in msgspec.structs.fields(present)
        if (names is None or field.name in names)
        and getattr(present, field.name) != getattr(default, field.name)
    ]
