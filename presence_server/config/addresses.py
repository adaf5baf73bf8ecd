"""The forms of a host, a network and an origin in the settings."""

import ipaddress
import re
from urllib.parse import urlsplit

_LABEL = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)")


def is_host(host: str) -> bool:
    """Whether `host` is an IP address without brackets, or a host name."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        pass
    else:
        return True
    labels = host.removesuffix(".").split(".")
    # A last label of digits is an IPv4 address that was mistyped.
    return len(host) <= 253 and all(map(_LABEL.fullmatch, labels)) and not labels[-1].isdigit()


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach what listens on `host`; other names are not resolved."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower().removesuffix(".") == "localhost"


def is_network(text: str) -> bool:
    """Whether `text` is an IP address or a network such as `10.0.0.0/8`."""
    try:
        ipaddress.ip_network(text, strict=False)
    except ValueError:
        return False
    return True


def is_origin(text: str) -> bool:
    """Whether `text` is what a browser can send as `Origin` (RFC 6454), or `*`."""
    if text in {"*", "null"}:
        return True
    try:
        parts = urlsplit(text)
        host, port = parts.hostname or "", "" if parts.port is None else f":{parts.port}"
    except ValueError:
        return False
    written = f"[{host}]" if ":" in host else host
    return bool(parts.scheme) and is_host(host) and text == f"{parts.scheme}://{written}{port}"
