"""What is where, over all nodes: the nodes themselves, each user's connections, and orders that reach them all.

`port` is the port; `local` and `redis` are its adapters. Knows no rooms and no sockets.
"""
