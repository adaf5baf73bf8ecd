"""Who on this node listens, and what they are written: one tick, one encoding, one write.

Owns local watchers, per-tick batching and slow clients. Does no I/O and is given the time. Knows neither
Redis nor the rules of presence.
"""
