"""docker-compose.yml: docker-compose accepts it, and its nodes would start with what it gives them."""

import hashlib
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from presence_server.config import Settings, load
from tests.support.daemon import find_program
from tests.support.node import PROJECT


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    """Return what docker-compose makes of the file."""
    command = [find_program("docker-compose"), "--file", str(PROJECT / "docker-compose.yml"), "config"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    read: dict[str, Any] = yaml.safe_load(done.stdout)
    return read


def settings_of(service: dict[str, Any]) -> Settings:
    """Return what a node of the file reads; raises `ConfigError` where it would not start."""
    return load(None, service["environment"], {})


def test_both_nodes_of_compose_would_start(compose: dict[str, Any]) -> None:
    proxy = compose["services"]["haproxy"]["networks"]["inner"]["ipv4_address"]
    for name in ("node1", "node2"):
        service = compose["services"][name]
        settings = settings_of(service)
        assert (settings.proxy.trusted, settings.proxy.protocol) == ([proxy], True)
        assert settings.redis.url.endswith("@valkey:6379")
        assert service["read_only"]
        grace_s = int(re.fullmatch(r"(\d+)s", service["stop_grace_period"])[1])  # type: ignore[index]  # or fails
        assert grace_s * 1000 > settings.server.drain_ms + settings.server.drain_delay_ms


def test_every_file_that_compose_mounts_is_there(compose: dict[str, Any]) -> None:
    mounted = [
        volume.split(":")[0]
        for service in compose["services"].values()
        for volume in service.get("volumes", [])
        if volume.startswith("/")
    ]
    assert len(mounted) >= 5
    assert all(Path(source).exists() for source in mounted), mounted
    haproxy = compose["services"]["haproxy"]["command"]
    for argument in haproxy:
        folder, _, file = argument.rpartition("/")
        if folder:
            assert (PROJECT / "deploy" / "haproxy" / file).is_file()


def test_compose_publishes_on_loopback_alone(compose: dict[str, Any]) -> None:
    ports = [port for service in compose["services"].values() for port in service.get("ports", [])]
    assert len(ports) == 3
    assert all(str(port).startswith("127.0.0.1:") for port in ports)


def test_the_password_of_compose_is_the_one_in_the_users_file(compose: dict[str, Any]) -> None:

    url = settings_of(compose["services"]["node1"]).redis.url
    user, _, password = url.removeprefix("redis://").partition("@")[0].partition(":")
    hashed = hashlib.sha256(password.encode()).hexdigest()
    assert f"user {user} reset on #{hashed} " in (PROJECT / "deploy" / "redis" / "users.acl").read_text()
