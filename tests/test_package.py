"""The published packages: a source distribution, and a wheel that is made of it."""

import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from email import message_from_string
from email.message import Message
from pathlib import Path

import pytest

from presence_server import __version__

PROJECT = Path(__file__).parents[1]
NAME = f"presence_server-{__version__}"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder with both packages; the wheel is built from the source distribution."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(PROJECT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def source(built: Path) -> set[str]:
    """Return the names of the files of the source distribution."""
    with tarfile.open(built / f"{NAME}.tar.gz") as archive:
        return {name.removeprefix(f"{NAME}/") for name in archive.getnames()}


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    (found,) = built.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        return message_from_string(archive.read(f"{NAME}.dist-info/METADATA").decode())


def test_the_source_distribution_has_the_software_and_its_pages_and_no_results(source: set[str]) -> None:
    assert {"README.md", "LICENSE", "CHANGELOG.md", "pyproject.toml", "constraints.txt"} <= source
    assert {"docs/client.md", "docs/images/three-desktop-light.png", "deploy/nginx/presence.conf"} <= source
    assert {name.partition("/")[0] for name in source} & {
        "bench",
        "tests",
        "mutation",
        ".ci",
        "site",
    } == set()


def test_the_wheel_has_every_file_of_the_package_and_nothing_else(wheel: Path) -> None:
    files = {path for path in (PROJECT / "presence_server").rglob("*") if path.is_file()}
    expected = {str(path.relative_to(PROJECT)) for path in files if path.parent.name != "__pycache__"}
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert names == expected


def test_the_metadata_says_who_made_it_and_what_it_needs(metadata: Message) -> None:
    assert metadata["Author"] == "presence-server contributors"
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Requires-Python"] == ">=3.11"
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert "# presence-server" in str(metadata.get_payload())


def test_the_wheel_runs_in_a_fresh_environment(wheel: Path, tmp_path: Path) -> None:
    folder = tmp_path / "venv"
    venv.create(folder, symlinks=True)
    python = folder / "bin" / "python"
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps", "--no-index"]
    subprocess.run([*install, "--quiet", str(wheel)], check=True, timeout=120)
    # Its dependencies are installed here; a folder in a .pth file is not searched for editable installations.
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "needs.pth").write_text(sysconfig.get_path("purelib"))
    env = {"PATH": f"{folder}/bin"}
    run = [str(folder / "bin" / "presence-server"), "--help"]
    said = subprocess.run(run, capture_output=True, text=True, env=env, cwd=tmp_path, timeout=60, check=False)
    assert said.returncode == 0, said.stderr
    assert "serve" in said.stdout
    where = "import presence_server; print(presence_server.__file__)"
    found = subprocess.run([python, "-c", where], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert Path(found.stdout.strip()).is_relative_to(folder)
