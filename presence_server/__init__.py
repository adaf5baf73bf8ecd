"""Real-time presence for live apps: everybody in a room sees who is there, and never a ghost."""

__version__ = "0.1.0"
