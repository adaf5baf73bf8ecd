"""TLS to stores: connections with the same options share one context.

Making a context reads all certificates of the system, some 50 ms of processor time: for each connection that is too
long for a node that makes many at once.
"""

import ssl
from functools import lru_cache
from pathlib import Path
from typing import Final, NamedTuple

from redis.asyncio import SSLConnection
from redis.asyncio.connection import RedisSSLContext

CONTEXTS_MAX: Final = 8
"""Contexts that are kept: those of the store and of Sentinels, and earlier ones whose files have changed since."""


class TlsOptions(NamedTuple):
    """The options of a context; `changed_ns` is when each of the files was changed."""

    certfile: str | None
    keyfile: str | None
    ca_certs: str | None
    changed_ns: tuple[int, ...]
    verify: ssl.VerifyMode
    check_hostname: bool


class TlsConnection(SSLConnection):
    """A connection over TLS. Where `ssl_ca_certs` is given, no other certificates are trusted."""

    async def _connect(self) -> None:
        self.ssl_context.context = context(read_options(self.ssl_context))
        await super()._connect()  # type: ignore[no-untyped-call]  # redis-py


def read_options(given: RedisSSLContext) -> TlsOptions:
    """Return the options of a context for the files as they are now. Raises `OSError` for one that is missing."""
    files = (given.certfile, given.keyfile, given.ca_certs)
    changed_ns = tuple(Path(file).stat().st_mtime_ns if file else 0 for file in files)
    return TlsOptions(*files, changed_ns, ssl.VerifyMode(given.cert_reqs), given.check_hostname)


@lru_cache(maxsize=CONTEXTS_MAX)
def context(options: TlsOptions) -> ssl.SSLContext:
    """Return the context of some options. Raises `OSError` for files that cannot be read or used."""
    # redis-py's own context trusts `ca_certs` beside the system's.
    made = ssl.create_default_context(cafile=options.ca_certs)
    made.check_hostname = options.check_hostname
    made.verify_mode = options.verify
    if options.certfile:
        made.load_cert_chain(options.certfile, options.keyfile)
    return made
