"""How large a lease is."""

from hypothesis import given
from hypothesis import strategies as st

from control_plane.leases.sizing import lease_size

AMOUNTS = st.integers(0, 10**6)


@given(need=AMOUNTS, more=AMOUNTS, available=AMOUNTS, holders=st.integers(1, 50), partly=st.booleans())
def test_never_more_than_there_is_and_never_less_than_is_needed(
    need: int, more: int, available: int, holders: int, partly: bool
) -> None:
    """Within what is available; the waiting call gets what it needs if that is there; without need only a fair part."""
    size = lease_size(need=need, amount=need + more, available=available, holders=holders, partly=partly)
    assert 0 <= size <= available
    if available >= need:
        assert size >= need
        assert size <= max(need, available // (2 * holders))
    else:
        assert size == (available if partly else 0)
