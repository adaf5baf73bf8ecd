"""`presence-server` and `python -m presence_server`: the command line, and signals before a server hears them."""

import signal
import sys


def main() -> int:
    """Run a command and give its exit code.

    A server imports and connects for seconds before it hears signals. Until then they wait: SIGHUP would end it, which
    systemd takes for the end that was wanted, and a process 1 of a container would never learn of SIGTERM.
    """
    if sys.argv[1:2] == ["serve"]:
        signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGINT, signal.SIGHUP))
    from presence_server import cli  # noqa: PLC0415 - importing it takes long

    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
