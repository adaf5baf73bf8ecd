"""The figures of a node for operators: read from its counters every two seconds, never on the way of a message.

`sampler` takes them, `history` keeps the last minutes, `busy_rooms` finds the largest rooms a part at a time, `alerts`
says what is degraded. Other nodes read them on the board; `api/overview.py` puts those of all nodes together.
"""
