"""The watchers on this node, and what they are sent: one tick, one encoding, one write.

Owns local watchers, per-tick batching and slow clients. Does no I/O and is given the time. Knows neither
Redis nor the rules of presence.
"""
