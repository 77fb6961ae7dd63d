"""How much is asked for: by the recent rate, and nothing after a rest."""

from sidecar.leases.demand import REST_SECONDS, Demand


def test_a_steady_rate_is_asked_for_ten_seconds_ahead() -> None:
    """After a while at 100 a second the target is about 1,000."""
    demand = Demand(0.0)
    for tick in range(1, 300):
        demand.took(10)
        demand.target(tick / 10)
    assert 950 <= demand.target(29.9) <= 1000


def test_at_rest_nothing_is_asked_for() -> None:
    """The average's tail is let go: otherwise ever smaller leases would be taken and given back for minutes."""
    demand = Demand(0.0)
    demand.took(10**9)
    assert demand.target(0.5) > 0
    assert demand.target(0.5 + REST_SECONDS) > 0
    assert demand.target(0.6 + REST_SECONDS) == 0
    assert not demand.is_new


def test_a_call_after_a_rest_counts_again() -> None:
    """The rest is over with the next call."""
    demand = Demand(0.0)
    demand.took(100)
    demand.target(1.0)
    assert demand.target(60.0) == 0
    demand.took(100)
    assert demand.target(61.0) > 0
