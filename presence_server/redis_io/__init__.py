"""Redis and Valkey: the one place that knows the client library, key names and scripts.

Owns connections, calls and their supervision. Knows nothing of rooms but their keys.
"""
