"""An outcome to show, small and complete."""

from clients.cli.dev.outcome import Check, Outcome, PlayedScene, Row


def outcome(*, held: bool = True) -> Outcome:
    """Two scenes, two checks, two customers."""
    return Outcome(
        heading="purser dev --demo · 1,500 requests of a sample, seed 1",
        scenes=[
            PlayedScene(
                "Twenty callers race for six slots", ["6 granted", "refused: 14 INSUFFICIENT_CREDITS"]
            ),
            PlayedScene("The control plane is unplugged", ["it is back: [x] 0.3 s later"]),
        ],
        checks=[Check("never oversold", True, "0 overage"), Check("never lost", held, "9 of 9")],
        rows=[
            Row(
                "gale", "hybrid", 1412, 1412, {}, 2_821_626, "10.488424", "1,000,000 tokens", "543,210 tokens"
            ),
            Row(
                "birch",
                "free",
                622,
                62,
                {"LIMIT_REACHED": 500, "RATE_LIMITED": 60},
                99_999,
                "0.000000",
                "100,000 tokens",
                "1 tokens",
            ),
            Row("cedar", "payg", 9, 9, {}, 10, "0.000001", "", ""),
        ],
        pastes=[
            "# in another terminal",
            "curl -s http://127.0.0.1:7081/v1/customers/iris/balances" + "?x=1" * 30,
        ],
        summary={"requests": 9, "oversold": 0},
    )
