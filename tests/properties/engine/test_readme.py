"""The engine's README and its properties keep together."""

import re

from tests.contracts.decision_cases import ROOT

README = ROOT / "sidecar/engine/README.md"
TESTS = ROOT / "tests/properties/engine"


def test_every_sentence_has_its_property() -> None:
    """Each name in the README is a test here, and each of its invariants has a name."""
    text = README.read_text(encoding="utf-8")
    named = set(re.findall(r"\(`(\w+)`\)", text))
    tested = set()
    for path in TESTS.glob("test_*.py"):
        tested |= set(re.findall(r"^def test_(\w+)", path.read_text(encoding="utf-8"), re.MULTILINE))
    assert named - tested == set()
    invariants = re.findall(r"^\* .*?(?=^\* |^#|\Z)", text, re.MULTILINE | re.DOTALL)
    assert len(invariants) > 20
    assert [sentence for sentence in invariants if not re.search(r"\(`\w+`\)", sentence)] == []
