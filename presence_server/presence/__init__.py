"""Who is where.

`roster` and `state` are the rules, pure functions of state and time; `store` is the port that says what
a presence store does; `memory` is the store of a process on its own. Knows no sockets.
"""
