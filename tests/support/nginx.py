"""The real nginx, on a port of this machine."""

import tempfile
from pathlib import Path
from typing import Final, Self

from tests.support.daemon import Daemon, find_program

CONF: Final = """daemon off; master_process off; worker_processes 1; pid {folder}/pid; error_log stderr warn;
events {{ worker_connections 4096; }}
http {{
  access_log off;
  client_body_temp_path {folder}; proxy_temp_path {folder}; fastcgi_temp_path {folder};
  uwsgi_temp_path {folder}; scgi_temp_path {folder};
  {servers}
}}
"""


class Nginx(Daemon):
    """One nginx with what stands in its http block, which listens on `port`."""

    def __init__(self, servers: str, port: int) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="presence-")
        self._servers = servers
        super().__init__(
            [find_program("nginx"), "-p", self._folder.name, "-c", f"{self._folder.name}/nginx.conf"], port
        )

    def __enter__(self) -> Self:
        folder = Path(self._folder.name)
        (folder / "nginx.conf").write_text(CONF.format(folder=folder, servers=self._servers))
        return super().__enter__()

    def __exit__(self, *exc_info: object) -> None:
        super().__exit__(*exc_info)
        self._folder.cleanup()
