"""What is where, over all nodes: the nodes themselves, each user's connections, and commands that reach them all.

`port` is the port; `memory` and `redis` are its adapters. Knows no rooms and no sockets.
"""
