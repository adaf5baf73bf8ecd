"""One client's conversation: who it is, what it asks, what it is refused, and how it ends.

Owns the order of a conversation and the limits of one connection. Knows no sockets and no Redis.
"""
