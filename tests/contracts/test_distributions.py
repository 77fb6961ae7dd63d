"""What an app installs is small, and what it imports is only that."""

import re
import subprocess
import sys
import zipfile
from importlib import metadata
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


def test_what_is_installed_finds_its_example(tmp_path: Path) -> None:
    """The demo's catalog is in the wheel, where the demo looks for it, as it is in the repository."""
    top_level_names(REPOSITORY, tmp_path)
    (wheel,) = tmp_path.glob("*.whl")
    bare = tmp_path / "bare"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(bare)
    program = "from clients.cli.dev.catalog_text import EXAMPLE; print(EXAMPLE)"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=bare, capture_output=True, text=True, check=True
    )
    found = Path(done.stdout.strip())
    assert found.is_relative_to(bare)
    assert found.read_bytes() == (REPOSITORY / "examples/catalogs/example.yaml").read_bytes()


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


def test_the_client_runs_with_nothing_but_what_it_asks_for(tmp_path: Path) -> None:
    """With the client's wheel and its declared requirements alone, a client can be made and used."""
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=REPOSITORY / "clients/python", capture_output=True, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    bare = tmp_path / "bare"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(bare)
    for name in _requirements("purser-entitlements"):
        for file in metadata.files(name) or ():
            target = bare / file
            if ".." not in file.parts:
                target.parent.mkdir(parents=True, exist_ok=True)
                target.symlink_to(Path(str(file.locate())))
    program = (
        f"import sys; sys.path.insert(0, {str(bare)!r})\n"
        "import purser, purser.aio\n"
        "try: purser.Client('127.0.0.1:1', timeout=0.2).check(customer_id='a', feature='b')\n"
        "except purser.PurserError as error: print(type(error).__name__)\n"
        "print(*({'sidecar', 'control_plane'} & sys.modules.keys()))"
    )
    # -I -S: no site-packages, no PYTHONPATH, not this folder.
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[0] in {"Unavailable", "DeadlineExceeded"}
    assert done.stdout.split("\n")[1] == ""


def _requirements(distribution: str) -> set[str]:
    """The names of everything that a distribution needs, requirements of requirements included."""
    found: set[str] = set()
    for line in metadata.requires(distribution) or ():
        if "extra ==" in line:
            continue
        match = re.match(r"[A-Za-z0-9._-]+", line)
        assert match is not None
        found |= {match.group(), *_requirements(match.group())}
    return found
