"""The program that the supervisor starts for each worker, by its path.

The first line of standard input is the supervisor's own import path as JSON: a worker is made of the same code, and of
nothing that lies in the folder it is started from.
"""

import json
import sys

if __name__ == "__main__":
    with open(0, "rb", buffering=0, closefd=False) as pipe:
        sys.path[:] = json.loads(pipe.readline())

    from presence_server.workers.worker import main

    sys.exit(main())
