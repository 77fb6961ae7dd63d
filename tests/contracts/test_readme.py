"""What the README says to type works, in its order, and what it says is printed is printed."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.e2e.fleet import Fleet, Sidecar

REPOSITORY = Path(__file__).resolve().parents[2]
README = REPOSITORY / "README.md"
PAGES = sorted(
    page
    for pattern in ("*.md", "docs/**/*.md", "helm/**/*.md", "sidecar/**/*.md", "control_plane/**/*.md")
    for page in REPOSITORY.glob(pattern)
)
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")
_PRINTS = re.compile(r"^\s*print\(.*\)  # (.+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block: its language, and its text."""

    language: str
    text: str


def blocks(section: str) -> list[Block]:
    """The fenced blocks of one section of the README, in order."""
    text = README.read_text().split(f"\n## {section}\n", 1)[1].split("\n## ", 1)[0]
    return [Block(*found) for found in _BLOCK.findall(text)]


@pytest.fixture
def installation(tmp_path: Path, sqlite_url: str) -> Iterator[tuple[Fleet, Sidecar]]:
    """A control plane and a sidecar with nothing in them, as `purser dev` starts them."""
    fleet = Fleet(tmp_path, sqlite_url)
    try:
        yield fleet, fleet.sidecar()
    finally:
        fleet.close()


def test_the_quick_start_works(installation: tuple[Fleet, Sidecar], tmp_path: Path) -> None:
    """Each block of the quick start is run as it stands but for the ports, and prints what its comments say."""
    fleet, sidecar = installation
    seen = [_run(block, fleet, sidecar, tmp_path) for block in blocks("Quick start")]
    assert seen.count("python") >= 2
    assert seen.count("sh") >= 2


def _run(block: Block, fleet: Fleet, sidecar: Sidecar, folder: Path) -> str:
    text = block.text.replace("127.0.0.1:7070", sidecar.address)
    text = text.replace("http://127.0.0.1:7081", fleet.rest_url)
    match block.language:
        case "yaml":
            (folder / "catalog.yaml").write_text(text)
        case "sh":
            _ran(["bash", "-euxo", "pipefail", "-c", text], fleet, sidecar, folder)
        case "python":
            printed = _ran([sys.executable, "-W", "error", "-c", text], fleet, sidecar, folder)
            promised = _PRINTS.findall(text)
            assert promised, "an example that promises nothing shows nothing"
            assert printed.splitlines() == promised
        case language:
            raise AssertionError(f"nothing runs a block of {language!r}")
    return block.language


def _ran(command: list[str], fleet: Fleet, sidecar: Sidecar, folder: Path) -> str:
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PURSER_SIDECAR": sidecar.address,
        "PURSER_CONTROL_PLANE_HTTP": fleet.rest_url,
    }
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}\nsidecar: {sidecar.tail()}"
    return done.stdout


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(REPOSITORY)) for page in PAGES])
def test_links_lead_somewhere(page: Path) -> None:
    """Each link of a page to a file of this repository finds that file."""
    links = [link for link in _LINK.findall(page.read_text()) if "://" not in link]
    missing = [link for link in links if not (page.parent / link).exists()]
    assert not missing
