"""Properties of the catalog document: see `sidecar/engine/README.md`."""

import json
from copy import deepcopy
from decimal import Decimal
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from sidecar.engine.document import CatalogError, read_catalog, write_catalog
from sidecar.engine.meaning import plan_meaning
from tests.properties.engine.worlds import documents, quick

leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.decimals(),
    st.text(max_size=8),
    st.sampled_from(["P1M", "usd"]),
)
anything = st.recursive(
    leaves,
    lambda below: st.one_of(
        st.lists(below, max_size=4), st.dictionaries(st.text(max_size=8) | st.integers(), below, max_size=4)
    ),
    max_leaves=12,
)


@quick
@given(documents())
def test_catalog_round_trip(document: dict[str, Any]) -> None:
    """Reading what was written gives the same catalog, and writing that gives the same text; the text is JSON."""
    catalog = read_catalog(document)
    written = write_catalog(catalog)
    again = read_catalog(json.loads(json.dumps(written)))
    assert again == catalog
    assert json.dumps(write_catalog(again)) == json.dumps(written)


def spots(node: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of everything below a node."""
    pairs = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    return [spot for key, below in pairs for spot in ((*path, key), *spots(below, (*path, key)))]


@quick
@given(documents(), anything, st.data())
def test_reading_is_total(document: dict[str, Any], other: Any, data: st.DataObject) -> None:
    """Whatever stands anywhere in a document, the answer is a catalog or problems with a path; never another error."""
    broken = deepcopy(document)
    path = data.draw(st.sampled_from(spots(broken)))
    node = broken
    for step in path[:-1]:
        node = node[step]
    node[path[-1]] = other
    for candidate in (broken, other):
        try:
            catalog = read_catalog(candidate)
        except CatalogError as error:
            found = error.problems
        else:
            assert read_catalog(write_catalog(catalog)) == catalog
            continue
        assert found
        assert all(problem.what and problem.mend for problem in found)


@quick
@given(documents(), st.sampled_from(["one", "two", "sub"]), st.data())
def test_meaning_is_what_is_used(document: dict[str, Any], plan: str, data: st.DataObject) -> None:
    """A plan's meaning changes with what it uses, and not with what it does not."""
    before = plan_meaning(read_catalog(document), plan)
    unused = deepcopy(document)
    unused["plans"]["extra"] = {}
    unused["units"]["eur"] = {"kind": "currency", "scale": 2}
    unused["features"]["sso"]["name"] = "Single sign-on"
    unused["plans"][plan]["name"] = "For people"
    assert plan_meaning(read_catalog(unused), plan) == before
    used = deepcopy(document)
    rows = used["rate_cards"]["llm"]["prices"]["*"]
    rows[0]["price"] = str(Decimal(rows[0]["price"]) + 1)
    entitled = read_catalog(document).plans[plan].entitlements
    uses_card = "chat" in entitled or plan == "two"
    assert (plan_meaning(read_catalog(used), plan) != before) == uses_card
    used["plans"][plan]["trial"] = data.draw(st.sampled_from(["P3D", "P5D"]))
    assert plan_meaning(read_catalog(used), plan) != before
