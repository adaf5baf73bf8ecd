"""The client port: sockets, handshakes, frames, pings.

Owns listening and bytes. Does not know what a room is.
"""
