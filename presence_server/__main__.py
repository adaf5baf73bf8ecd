"""`python -m presence_server`: the command line."""

import sys

from presence_server.cli import main

if __name__ == "__main__":
    sys.exit(main())
