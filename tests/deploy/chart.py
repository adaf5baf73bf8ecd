"""What the Helm chart makes of values, kept as files, because helm takes too long to build for `.ci/run`.

    go install helm.sh/helm/v3/cmd/helm@v3.18.6     # five minutes of a core
    python -m tests.deploy.chart                    # lints the chart, and writes tests/deploy/helm/*.rendered.yaml anew

Each file begins with the digest of what it was made from, so that a test sees a chart that was changed after it.
"""

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import yaml

from tests.support.node import PROJECT

CHART: Final = PROJECT / "deploy" / "helm" / "presence-server"
FOLDER: Final = PROJECT / "tests" / "deploy" / "helm"
CASES: Final = ("least", "most")
KUBERNETES: Final = "1.30"
HEAD: Final = "# Made by `python -m tests.deploy.chart` of "


def values_of(case: str) -> Path:
    """Return the file of a case's values."""
    return FOLDER / f"{case}.values.yaml"


def rendered_of(case: str) -> Path:
    """Return the file of what the chart makes of them."""
    return FOLDER / f"{case}.rendered.yaml"


def digest(case: str) -> str:
    """Return a digest of the chart and a case's values."""
    taken = hashlib.sha256()
    for path in [*sorted(path for path in CHART.rglob("*") if path.is_file()), values_of(case)]:
        taken.update(f"{path.relative_to(PROJECT)}\n".encode())
        taken.update(path.read_bytes())
    return taken.hexdigest()


def manifests(case: str) -> list[dict[str, Any]]:
    """Return what the chart makes of a case's values."""
    return [manifest for manifest in yaml.safe_load_all(rendered_of(case).read_text()) if manifest]


def run_helm(helm: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run helm; its answer is what it prints."""
    return subprocess.run([helm, *arguments], capture_output=True, text=True, check=False, timeout=120)


def render(helm: str, case: str) -> str:
    """Return a case's file as it should be. Raises `RuntimeError` with what helm says against the chart."""
    values = ("--values", str(values_of(case)))
    linted = run_helm(helm, "lint", "--strict", str(CHART), *values)
    made = run_helm(
        helm,
        *("template", "presence", str(CHART), "--namespace", "chat", "--kube-version", KUBERNETES, *values),
    )
    if linted.returncode or made.returncode:
        raise RuntimeError(linted.stdout + linted.stderr + made.stderr)
    return f"{HEAD}{digest(case)}\n{made.stdout}"


def main() -> int:
    """Write every case's file."""
    helm = shutil.which("helm")
    if helm is None:
        sys.stderr.write(f"there is no helm on PATH.\n{__doc__}")
        return 1
    for case in CASES:
        rendered_of(case).write_text(render(helm, case))
    return 0


if __name__ == "__main__":
    sys.exit(main())
