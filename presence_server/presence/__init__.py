"""Presence: which members each room has.

`roster` and `state` are the rules, pure functions of state and time; `port` says what a presence
store does; `memory` is the store of a process on its own, `redis` the one that nodes share. Knows no sockets.
"""
