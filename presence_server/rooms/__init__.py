"""The verbs: join, watch, leave, update, publish, signal, members. Both doors use them.

Owns what a room is to this node. Knows no encodings.
"""
