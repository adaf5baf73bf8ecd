"""Nodes that share a store: whether there is contact with it, and what follows when that ends and returns.

`connectivity` is the table of states, events and effects, pure; `rejoin` carries the effects out; `store` is the
presence store of a node among others. `port` is what a node needs of its backend: `local` has it in one process,
`backend` shares it with other nodes.
"""
