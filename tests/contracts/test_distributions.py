"""What an app installs is small, and what it imports is only that."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


def top_level_names(project: Path, folder: Path) -> set[str]:
    """Builds the project's wheel and lists what it would put into site-packages."""
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=project, capture_output=True, check=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        tops = {name.split("/")[0] for name in archive.namelist()}
    return {top for top in tops if not top.endswith(".dist-info")}


def test_the_client_brings_only_purser(tmp_path: Path) -> None:
    """`pip install purser-entitlements` puts the package `purser` into an app, and nothing else."""
    assert top_level_names(REPOSITORY / "clients/python", tmp_path) == {"purser"}


def test_the_server_does_not_swallow_the_client(tmp_path: Path) -> None:
    """`purser-server` has both servers and the command line; `purser` comes with its own distribution."""
    assert top_level_names(REPOSITORY, tmp_path) == {"sidecar", "control_plane", "clients"}
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        assert not [name for name in archive.namelist() if name.startswith("clients/python")]


@pytest.mark.parametrize(
    "module", ["purser", "purser.v1.entitlement_service_pb2_grpc", "purser.sync.v1.sync_service_pb2_grpc"]
)
def test_importing_the_client_loads_no_server_and_warns_of_nothing(module: str) -> None:
    """The stubs fit the protobuf and grpcio that are installed, and `import purser` stays light."""
    program = (
        f"import sys, {module}; "
        "print(*sorted({'sidecar', 'control_plane', 'clients', 'sqlalchemy', 'fastapi'} & sys.modules.keys()))"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []
