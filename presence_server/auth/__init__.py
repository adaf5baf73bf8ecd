"""May it: who a client is, by the credentials that its handshake brought, and what they let it do.

`identity` is the port; `anonymous`, `tokens` and `opaque` are its adapters, one a mode. Knows no sockets.
"""
