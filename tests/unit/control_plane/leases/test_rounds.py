"""Rounds: who asks alone is answered at once, who asks meanwhile shares the next."""

import asyncio
from collections.abc import Sequence

import pytest

from control_plane.leases.rounds import AT_ONCE, MOST, Rounds


class Books:
    """Answers when it is let; tells what it was asked, round by round."""

    def __init__(self) -> None:
        self.rounds: list[list[str]] = []
        self.let = asyncio.Event()
        self.error: Exception | None = None
        self.seconds = 0.0

    async def answer(self, asked: Sequence[str]) -> list[str]:
        """Each in capitals."""
        self.rounds.append(list(asked))
        await self.let.wait()
        await asyncio.sleep(self.seconds)
        if self.error is not None:
            raise self.error
        return [one.upper() for one in asked]


async def at_work(books: Books) -> tuple[Rounds[str, str], list["asyncio.Task[str]"]]:
    """Rounds of which one is at work, on somebody who asked alone."""
    rounds = Rounds(books.answer)
    asking = [ask(rounds, "first")]
    await turn()
    return rounds, asking


def ask(rounds: Rounds[str, str], asked: str, key: str = "") -> "asyncio.Task[str]":
    """Somebody who asks; by default each has a key of its own."""
    return asyncio.ensure_future(rounds.take_part(key or asked, asked))


async def turn() -> None:
    """Lets everybody get as far as they can."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_who_asks_alone_is_answered_alone() -> None:
    """Without waiting for others; and as often as it asks."""
    books = Books()
    books.let.set()
    rounds = Rounds(books.answer)
    assert [await rounds.take_part("k", one) for one in ("a", "b")] == ["A", "B"]
    assert books.rounds == [["a"], ["b"]]


async def test_who_asks_meanwhile_shares_the_next_round() -> None:
    """In the order in which they came, each with its own answer."""
    books = Books()
    rounds, asking = await at_work(books)
    asking += [ask(rounds, name) for name in "abc"]
    await turn()
    assert len(books.rounds) == 1
    books.let.set()
    assert await asyncio.gather(*asking) == ["FIRST", "A", "B", "C"]
    assert books.rounds[1:] == [["a", "b", "c"]]


async def test_a_round_has_each_key_once() -> None:
    """The second waits for the next one, and loses its place to nobody of its key."""
    books = Books()
    rounds, asking = await at_work(books)
    asking += [ask(rounds, name, key=name[0]) for name in ("a1", "b1", "a2", "a3", "b2")]
    await turn()
    books.let.set()
    await asyncio.gather(*asking)
    assert books.rounds[1:] == [["a1", "b1"], ["a2", "b2"], ["a3"]]


async def test_a_round_has_an_end() -> None:
    """More than it takes wait for the next one."""
    books = Books()
    rounds, asking = await at_work(books)
    asking += [ask(rounds, f"{n:03}") for n in range(2 * MOST + 1)]
    await turn()
    books.let.set()
    await asyncio.gather(*asking)
    assert [len(one) for one in books.rounds[1:]] == [MOST, MOST, 1]


async def test_those_who_come_again_after_a_round_share_the_next() -> None:
    """Not the first of them alone, and the rest behind it; nobody is waited for longer than half a round."""
    books = Books()
    books.seconds = 0.2
    rounds, asking = await at_work(books)

    async def insists(name: str, seconds: float) -> None:
        for _ in range(3):
            await rounds.take_part(name, name)
            await asyncio.sleep(seconds)

    callers = [asyncio.ensure_future(insists(name, 0.005 * n)) for n, name in enumerate("abcd")]
    await turn()
    books.let.set()
    await asyncio.gather(*asking, *callers)
    assert books.rounds[1:] == [list("abcd")] * 3
    began = asyncio.get_running_loop().time()
    assert await rounds.take_part("z", "z") == "Z"
    assert books.rounds[4:] == [["z"]]
    assert asyncio.get_running_loop().time() - began < books.seconds * 2


async def test_an_error_is_everybodys() -> None:
    """And the rounds after it are as ever."""
    books = Books()
    rounds, asking = await at_work(books)
    asking += [ask(rounds, "a"), ask(rounds, "b")]
    await turn()
    books.error = OSError("the database is away")
    books.let.set()
    for one in asking:
        with pytest.raises(OSError, match="away"):
            await one
    books.error = None
    assert await rounds.take_part("c", "c") == "C"


async def test_who_goes_away_before_it_begins_is_left_out() -> None:
    """Who goes away later is worked on to the end: its transaction is on its way."""
    books = Books()
    rounds, (first,) = await at_work(books)
    gone, stays = ask(rounds, "gone"), ask(rounds, "stays")
    await turn()
    gone.cancel()
    first.cancel()
    await turn()
    books.let.set()
    assert await stays == "STAYS"
    assert books.rounds == [["first"], ["stays"]]


async def test_a_long_round_holds_up_nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who waits gets another round, up to so many; a long one that has ended takes nobody's place."""
    monkeypatch.setattr("control_plane.leases.rounds.LONG_SECONDS", 0.01)
    books = Books()
    rounds, asking = await at_work(books)
    for number in range(2 * AT_ONCE):
        asking.append(ask(rounds, f"{number}"))
        await asyncio.sleep(0.02)
    assert books.rounds == [["first"], *([f"{number}"] for number in range(AT_ONCE - 1))]
    books.let.set()
    await asyncio.gather(*asking)
    assert books.rounds[AT_ONCE:] == [[f"{number}" for number in range(AT_ONCE - 1, 2 * AT_ONCE)]]
    assert await rounds.take_part("again", "again") == "AGAIN"
