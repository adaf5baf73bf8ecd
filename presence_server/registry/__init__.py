"""The nodes, the connections of each user over all nodes, and commands that reach every node.

`port` is the port; `memory` and `redis` are its adapters. Knows no rooms and no sockets.
"""
