"""The commands that ask a running node: `presence-server throttle` and `top`, over the HTTP API of any node."""
