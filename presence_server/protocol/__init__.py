"""The wire: messages, their two encodings, error and close codes.

Owns what a message may say. Knows no sockets, no Redis and no time.
"""
