"""A network that takes its time, with or without TLS: python -m bench.peers.distance SOCKET MS [CERTIFICATE].

Says where it listens. Everything goes on to the unix socket; answers come back after MS milliseconds: all of the
delay is on the way back, since timers count in whole ones. CERTIFICATE is a file with a key and its certificate.
"""

import asyncio
import socket
import ssl
import sys
from contextlib import suppress

READ_BYTES = 1 << 18


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, delay_s: float) -> None:
    loop = asyncio.get_running_loop()
    with suppress(OSError):
        while data := await reader.read(READ_BYTES):
            if delay_s:
                loop.call_later(delay_s, writer.write, data)
            else:
                writer.write(data)
    writer.close()


async def _serve(path: str, delay_ms: str, certificate: str = "") -> None:
    context = None
    if certificate:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificate)

    async def join(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_store, to_store = await asyncio.open_unix_connection(path)
        await asyncio.gather(
            _pass_on(reader, to_store, 0), _pass_on(from_store, writer, int(delay_ms) / 1_000)
        )

    listener = await asyncio.start_server(join, "127.0.0.1", 0, family=socket.AF_INET, ssl=context)
    print(f"ready client=127.0.0.1:{listener.sockets[0].getsockname()[1]}", flush=True)
    await listener.serve_forever()


if __name__ == "__main__":
    asyncio.run(_serve(*sys.argv[1:]))
