"""What holds for every test."""

from presence_server.redis_io import scripts

scripts.checks_slots = True
