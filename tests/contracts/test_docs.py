"""The references in docs/ are what the code says."""

import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]


def test_references_are_up_to_date() -> None:
    """`make docs` would change nothing: each setting and each metric is there, with its default and its meaning."""
    done = subprocess.run(
        [sys.executable, "docs/generate.py", "--check"],
        cwd=REPOSITORY,
        env={"PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"run `make docs` and commit: {done.stdout}{done.stderr}"


def test_every_decision_is_listed() -> None:
    """The list of decisions has every page, by its title, and nothing else."""
    folder = REPOSITORY / "docs/decisions"
    listed = (folder / "README.md").read_text()
    pages = sorted(page for page in folder.glob("[0-9]*.md"))
    assert listed.count("](0") == len(pages)
    for page in pages:
        title = page.read_text().splitlines()[0]
        assert title.startswith(f"# {page.name[:4]}: "), page.name
        assert f"]({page.name})" in listed
