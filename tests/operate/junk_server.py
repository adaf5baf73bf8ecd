"""An HTTP server that is no node, or one of another version."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@contextmanager
def answering(body: bytes, status: int = 200) -> Iterator[str]:
    """Answer each request so; yields the URL."""

    class Answering(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.wfile.write(b"HTTP/1.0 %d No\x9b1m\r\n\r\n" % status + body)

        def do_POST(self) -> None:
            # A socket that is closed with bytes unread is reset, and the answer may be lost with it.
            self.rfile.read(int(self.headers["Content-Length"] or 0))
            self.wfile.write(b"HTTP/1.0 %d No\x9b1m\r\n\r\n" % status + body)

        def log_message(self, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answering) as server:
        serving = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        serving.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            serving.join()
