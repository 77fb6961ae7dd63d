"""Decision cases: what a customer on a catalog asks in turn, and what the answers must be, whoever evaluates them.

A file holds `about`, a `catalog` (a path from the repository's root, or the document itself), the instant `at`,
`customers` by id (`plan`, `add_ons`, `state`, `began_days_ago`, …; `exists: false`), and `steps`. A step is a `check`
or a `consume` of a customer: `feature`, `quantity` or `event`, and `expect`: any of `allowed`, `reason`, `cost`,
`billed`, `shortfall`, `value`, `warnings`, `upgrade_options`, `remaining` (by balance). What a `consume` takes is
gone for the steps after it.
"""

from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).parent
ROOT = FOLDER.parents[2]


class ExactLoader(yaml.SafeLoader):
    """Leaves numbers with a point as their text: never a float."""


def _text_of(loader: yaml.SafeLoader, node: yaml.Node) -> Any:
    assert isinstance(node, yaml.ScalarNode), "a float is a scalar"
    return loader.construct_scalar(node)


ExactLoader.add_constructor("tag:yaml.org,2002:float", _text_of)


def read_yaml(path: Path) -> Any:
    """Plain data, without floats."""
    return yaml.load(path.read_text(encoding="utf-8"), ExactLoader)


def case_files() -> list[Path]:
    """Every file of cases."""
    return sorted(FOLDER.glob("*.yaml"))


def catalog_document(case: dict[str, Any]) -> Any:
    """The catalog document of a file of cases."""
    catalog = case["catalog"]
    return read_yaml(ROOT / catalog) if isinstance(catalog, str) else catalog
