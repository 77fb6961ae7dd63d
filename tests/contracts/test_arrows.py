"""The import contracts in pyproject.toml can fail: each is shown a small tree with one import too many."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
ROOMS = ("deciding", "engine", "http", "leases", "outbox", "rpc", "runtime", "upstream", "view")
MODULES = [
    *("sidecar/__init__.py", "sidecar/__main__.py", "sidecar/app.py", "sidecar/config.py"),
    *(f"sidecar/{room}/__init__.py" for room in ROOMS),
    *("control_plane/__init__.py", "control_plane/ledger.py"),
    *("clients/__init__.py", "clients/cli/__init__.py", "clients/cli/dev.py"),
    *("purser/__init__.py", "purser/v1/__init__.py", "purser/v1/usage_pb2.py"),
]
ALLOWED = {
    "sidecar/app.py": "import sidecar.config, sidecar.rpc, sidecar.upstream, sidecar.outbox",
    "sidecar/rpc/__init__.py": "import grpc, sidecar.deciding, purser.v1.usage_pb2",
    "sidecar/deciding/__init__.py": "import sidecar.view, sidecar.leases, sidecar.outbox",
    "sidecar/runtime/__init__.py": "import time, sidecar.engine",
    "sidecar/engine/__init__.py": "import decimal, datetime, dataclasses",
    "control_plane/ledger.py": "import sidecar.engine, sidecar.runtime, purser.v1.usage_pb2",
    "clients/cli/dev.py": "import sidecar.app, control_plane.ledger, purser",
}
TOO_MANY = [
    ("sidecar/rpc/__init__.py", "import sidecar.app", "Inside the sidecar"),
    ("sidecar/rpc/__init__.py", "import sidecar.upstream", "Inside the sidecar"),
    ("sidecar/deciding/__init__.py", "import sidecar.rpc", "Inside the sidecar"),
    ("sidecar/view/__init__.py", "import sidecar.deciding", "Inside the sidecar"),
    ("sidecar/view/__init__.py", "import sidecar.upstream", "Inside the sidecar"),
    ("sidecar/leases/__init__.py", "import sidecar.outbox", "Inside the sidecar"),
    ("sidecar/runtime/__init__.py", "import sidecar.view", "Inside the sidecar"),
    ("sidecar/engine/__init__.py", "import sidecar.runtime", "Inside the sidecar"),
    ("sidecar/engine/__init__.py", "from time import monotonic", "The engine"),
    ("sidecar/engine/__init__.py", "import os.path", "The engine"),
    ("sidecar/engine/__init__.py", "from purser.v1 import usage_pb2", "The engine"),
    ("sidecar/engine/__init__.py", "from google.protobuf import timestamp_pb2", "The engine"),
    ("sidecar/app.py", "import control_plane", "The sidecar knows"),
    ("sidecar/app.py", "import clients.cli", "The sidecar knows"),
    ("control_plane/ledger.py", "import sidecar.app", "Of the sidecar"),
    ("control_plane/ledger.py", "from sidecar import config", "Of the sidecar"),
    ("control_plane/ledger.py", "from sidecar.view import x", "Of the sidecar"),
    ("control_plane/ledger.py", "import clients.cli.dev", "Of the sidecar"),
    ("purser/__init__.py", "import sidecar.engine", "What an app installs"),
    ("purser/__init__.py", "import control_plane", "What an app installs"),
]


@pytest.fixture
def house(tmp_path: Path) -> Path:
    """A tree with our rooms, every allowed kind of import, and our contracts."""
    for module in MODULES:
        path = tmp_path / module
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(ALLOWED.get(module, "") + "\n")
    shutil.copy(REPOSITORY / "pyproject.toml", tmp_path)
    return tmp_path


def lint_imports(house: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        cwd=house,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_allowed_imports_are_allowed(house: Path) -> None:
    """Arrows that point down, the borrowed engine, and the command line's reach into both sides."""
    done = lint_imports(house)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(("module", "statement", "contract"), TOO_MANY)
def test_one_import_too_many_breaks_its_contract(
    house: Path, module: str, statement: str, contract: str
) -> None:
    """Each forbidden arrow is reported under the contract that forbids it."""
    with (house / module).open("a") as file:
        file.write(statement + "\n")
    done = lint_imports(house)
    assert done.returncode == 1, done.stdout
    broken = done.stdout.partition("Broken contracts")[2]
    assert contract in broken, done.stdout
