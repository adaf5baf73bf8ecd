"""The way between nodes: what happens in a room reaches every node that has a watcher there.

Owns delivery. Does not know what the payload means.
"""
