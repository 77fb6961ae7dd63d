"""Who calls the sidecars: what they ask, what they are told, and how they go on when they do not know."""

from collections.abc import Callable
from random import Random
from typing import Any, Final

import grpc

from purser.v1 import decision_pb2 as answers
from purser.v1 import entitlement_service_pb2 as api
from purser.v1 import usage_pb2 as usage
from tests.simulation.network import RpcError
from tests.simulation.node import Node, Running
from tests.simulation.oracle import Held, Told, Use
from tests.simulation.stage import Stage
from tests.simulation.story import CUSTOMERS, Act

TIMEOUT: Final = 2.0
TRIES: Final = 5
LETS_BE: Final = 0.3
"""How many of those who were told that something failed do not ask again."""
HOLD_SECONDS: Final = (2, 5, 600)
"""How long reservations last."""
CHECK_SECONDS: Final = 0.5
"""A check is answered by then, whatever is away."""
LATE_SECONDS: Final = 0.5
"""So much later than the feed's messages: a poll of the books, and what waits for its turn."""


class Callers:
    """Every public method is an act."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._oracle = stage.oracle

    # Uses

    def consume_job(self, act: Act) -> None:
        """A decided use of a wallet."""
        self._use(act, "acme", act.amount)

    def consume_call(self, act: Act) -> None:
        """Of an allowance."""
        self._use(act, "ring", 1)

    def consume_page(self, act: Act) -> None:
        """Of an allowance with a soft cap, which begins anew on the hour."""
        self._use(act, "page", act.amount)

    def consume_ping(self, act: Act) -> None:
        """Of a rate."""
        self._use(act, "pace", 1)

    def consume_task(self, act: Act) -> None:
        """Of a wallet and a budget."""
        self._use(act, "task", act.amount)

    def report_job(self, act: Act) -> None:
        """A fact."""
        self._use(act, "acme", act.amount, is_fact=True)

    def report_page(self, act: Act) -> None:
        """A fact."""
        self._use(act, "page", act.amount, is_fact=True)

    def add_seat(self, act: Act) -> None:
        """Somebody wants a seat."""
        self._use(act, "team", 1, seat=f"holder-{act.amount % 7}", adds=True)

    def remove_seat(self, act: Act) -> None:
        """Somebody leaves."""
        self._use(act, "team", 1, seat=f"holder-{act.amount % 7}")

    def _use(self, act: Act, customer_id: str, amount: int, **what: Any) -> None:
        use = Use(
            key=f"k{act.number}",
            customer_id=customer_id,
            amount=amount,
            is_fact=what.pop("is_fact", False),
            asked_at=self._stage.now(),
            **what,
        )
        self._ask(self._oracle.ask(use), act.node, 1)

    def _lets_it_be(self, use: Use, tries: int) -> bool:
        """Who was told that nothing has happened may believe it."""
        return Random(f"{self._stage.story.seed} {use.key} {tries} lets it be").random() < LETS_BE

    def _ask(self, use: Use, number: int, tries: int) -> None:
        """Asks; what is unknown is asked again with its key, perhaps elsewhere, and mostly what failed."""
        node = self._stage.nodes[number]
        asked_at = self._stage.now()
        is_open = True

        def ended(told: Told, why: str = "") -> None:
            nonlocal is_open
            if not is_open:
                return
            is_open = False
            self._stage.say(f"{use.key} at {node.name}: {told.value} {why}")
            self._oracle.told(use, self._stage.now(), told, node.name)
            lets_it_be = told is Told.FAILED and self._lets_it_be(use, tries)
            if told in {Told.UNKNOWN, Told.FAILED} and tries < TRIES and not lets_it_be:
                dice = Random(f"{self._stage.story.seed} {use.key} {tries}")
                other = number if dice.random() < 0.6 else dice.randrange(len(self._stage.nodes))
                self._stage.later(dice.expovariate(0.5), self._ask, use, other, tries + 1)

        def heard(answer: bytes | RpcError) -> None:
            if isinstance(answer, RpcError):
                ended(*_meaning(answer))
            elif use.is_fact:
                result = api.ReportUsageResponse.FromString(answer).results[0]
                ended(Told.ACCEPTED if result.status in {1, 2} else Told.REFUSED, result.message)
            else:
                consumed = api.ConsumeUsageResponse.FromString(answer)
                if consumed.status != api.USAGE_STATUS_DUPLICATE:
                    self._decided(use.customer_id, asked_at, consumed.decision)
                why = consumed.decision.message or str(consumed.decision.reason)
                is_final = not consumed.decision.HasField("retry_after")
                if consumed.decision.reason == answers.REASON_LIMIT_REACHED and is_final:
                    self._out_of_calls(use)
                ended(Told.ACCEPTED if consumed.status in {1, 2} else Told.REFUSED, why)

        self._stage.later(TIMEOUT + 0.5, ended, Told.UNKNOWN, "no answer in time")
        if use.is_fact:
            self._stage.call(
                node, "ReportUsage", api.ReportUsageRequest(events=[_event(use)]), TIMEOUT, heard
            )
        else:
            feature = CUSTOMERS[use.customer_id].feature if use.seat else ""
            request = api.ConsumeUsageRequest(event=_event(use), feature=feature)
            self._stage.call(node, "ConsumeUsage", request, TIMEOUT, heard)

    def _out_of_calls(self, use: Use) -> None:
        """Where nothing goes wrong, nobody is told so while there are calls left."""
        if use.customer_id == "ring" and self._stage.story.is_calm:
            self._oracle.check_refused(use)

    def check(self, act: Act) -> None:
        """A question."""
        customer_id = list(CUSTOMERS)[act.number % len(CUSTOMERS)]
        asked_at = self._stage.now()
        node = self._stage.nodes[act.node]
        running = node.running
        is_owed = running is not None and self._knows(running, customer_id)

        def heard(answer: bytes | RpcError) -> None:
            nonlocal is_owed
            if isinstance(answer, bytes):
                is_owed = False
                decision = api.CheckAccessResponse.FromString(answer).decision
                self._stage.say(f"check of {customer_id} at {node.name}: {decision.reason}")
                self._decided(customer_id, asked_at, decision)
            else:
                self._stage.say(f"check of {customer_id} at {node.name}: {answer}")

        def looked_at() -> None:
            """It needs nobody to answer that: not the network, not the disk."""
            if is_owed and running is not None and node.running is running and running.is_untouched:
                self._oracle.violations.append(f"unanswered: a check of {customer_id} at {node.name}")

        request = api.CheckAccessRequest(customer_id=customer_id, feature=CUSTOMERS[customer_id].feature)
        self._stage.call(node, "CheckAccess", request, TIMEOUT, heard)
        self._stage.later(CHECK_SECONDS, looked_at)

    def _knows(self, running: Running, customer_id: str) -> bool:
        """Was it told of this customer, and is there room for all?"""
        has_room = self._stage.story.customers_max == len(CUSTOMERS)
        return has_room and running.sidecar._view.customer(customer_id) is not None

    def _decided(self, customer_id: str, asked_at: float, decision: Any) -> None:
        late = self._stage.story.weather.longest_delay + LATE_SECONDS
        self._oracle.decided(customer_id, asked_at, decision, late=late)

    # Reservations

    def reserve_job(self, act: Act) -> None:
        """A reservation, which is settled in steps, extended, released or forgotten later, at the same sidecar."""
        self._reserve(act, "acme")

    def reserve_task(self, act: Act) -> None:
        """One that two balances pay."""
        self._reserve(act, "task")

    def _reserve(self, act: Act, customer_id: str) -> None:
        node = self._stage.nodes[act.node]
        key = f"r{act.number}"
        seconds = HOLD_SECONDS[act.number % len(HOLD_SECONDS)]
        asked_at = self._stage.now()

        def heard(answer: bytes | RpcError) -> None:
            if isinstance(answer, RpcError):
                self._stage.say(f"{key} at {node.name}: not reserved: {answer}")
                return
            response = api.ReserveUsageResponse.FromString(answer)
            self._stage.say(f"{key} at {node.name}: reserved {response.decision.allowed}")
            self._decided(customer_id, asked_at, response.decision)
            if response.decision.allowed:
                # Its end is counted on the sidecar's clocks, and one of them may be set.
                held = Held(
                    key=key,
                    customer_id=customer_id,
                    node=act.node,
                    amount=act.amount,
                    since=self._stage.now(),
                    ends_at=asked_at + seconds * 0.98,
                )
                self._oracle.holds[key] = held
                self._oracle.check_spent(customer_id, self._stage.now())
                Stream(self._stage, held, act).later()

        event = usage.UsageEvent(
            customer_id=customer_id,
            event_name=CUSTOMERS[customer_id].event,
            measures={"points": str(act.amount)},
        )
        request = api.ReserveUsageRequest(reservation_id=key, event=event)
        request.ttl.FromSeconds(seconds)
        self._stage.call(node, "ReserveUsage", request, TIMEOUT, heard)


class Stream:
    """What becomes of one reservation: a few steps, then its end, or nothing at all."""

    def __init__(self, stage: Stage, held: Held, act: Act) -> None:
        self._stage = stage
        self._oracle = stage.oracle
        self._held = held
        self._node: Node = stage.nodes[held.node]
        dice = Random(f"{stage.story.seed} {held.key}")
        totals = sorted(dice.randint(0, held.amount) for _ in range(dice.choice([0, 0, 1, 3])))
        self._steps: list[Callable[[], None]] = [
            lambda total=total: self._settle(total, final=False)  # type: ignore[misc]
            for total in totals
        ]
        if dice.random() < 0.2:
            self._steps.append(self._extend)
        spent = dice.randint(totals[-1] if totals else 0, held.amount)
        if (fate := dice.random()) < 0.75:
            self._steps.append(lambda: self._settle(spent, final=True))
        elif fate < 0.88:
            self._steps.append(self._release)  # the others are forgotten
        self._pause = act.seconds / max(1, len(self._steps))
        self._tries = 0

    def later(self) -> None:
        """The next step, after a while."""
        self._stage.later(self._pause, self._next)

    def _next(self) -> None:
        if self._steps:
            self._steps[0]()

    def _done(self, told: Told) -> None:
        """On to the next step; or the same again, until it is known."""
        if told not in {Told.UNKNOWN, Told.FAILED}:
            self._steps.pop(0)
            self._tries = 0
            self.later()
        elif self._tries < 60:
            self._tries += 1
            self._stage.later(1.0, self._next)

    def _event(self, points: int) -> usage.UsageEvent:
        customer_id = self._held.customer_id
        return usage.UsageEvent(
            customer_id=customer_id, event_name=CUSTOMERS[customer_id].event, measures={"points": str(points)}
        )

    def _settle(self, points: int, *, final: bool) -> None:
        held = self._held
        held.asked = max(points, held.asked or 0)
        held.is_ending |= final

        def heard(answer: bytes | RpcError) -> None:
            told, why = _meaning(answer) if isinstance(answer, RpcError) else (Told.ACCEPTED, "")
            if isinstance(answer, bytes):
                response = api.SettleReservationResponse.FromString(answer)
                if not response.reservation.state:
                    self._oracle.hold_is_unknown(held, self._node.name)
                held.settled = max(points, held.settled)
                if not response.recorded_as:
                    held.decided = max(points, held.decided)
                elif response.recorded_as == held.key:
                    held.decided = 0  # its one event is a fact
            self._say(f"settle {points}{' for good' if final else ''}: {told.value} {why}")
            held.is_open &= not (final and told is Told.ACCEPTED)
            self._done(told)

        request = api.SettleReservationRequest(
            reservation_id=held.key, event=self._event(points), final=final
        )
        self._stage.call(self._node, "SettleReservation", request, TIMEOUT, heard)

    def _release(self) -> None:
        held = self._held
        held.is_ending = True

        def heard(answer: bytes | RpcError) -> None:
            told, why = _meaning(answer) if isinstance(answer, RpcError) else (Told.ACCEPTED, "")
            self._say(f"release: {told.value} {why}")
            if isinstance(answer, RpcError) and answer.code() is grpc.StatusCode.NOT_FOUND:
                self._oracle.hold_is_unknown(held, self._node.name)
                told = Told.ACCEPTED
            held.is_open &= told is not Told.ACCEPTED
            self._done(told)

        request = api.ReleaseReservationRequest(reservation_id=held.key)
        self._stage.call(self._node, "ReleaseReservation", request, TIMEOUT, heard)

    def _extend(self) -> None:
        """A larger estimate, or it stays as it was; whatever the answer, it is not asked for again."""
        held = self._held

        def heard(answer: bytes | RpcError) -> None:
            self._say("extended" if isinstance(answer, bytes) else str(answer))
            if isinstance(answer, bytes):
                decision = api.ExtendReservationResponse.FromString(answer).decision
                if decision.allowed and self._stage.now() < held.ends_at and not held.is_ending:
                    held.amount += 5
                    self._oracle.check_spent(held.customer_id, self._stage.now())
            self._done(Told.ACCEPTED)

        request = api.ExtendReservationRequest(reservation_id=held.key, event=self._event(held.amount + 5))
        self._stage.call(self._node, "ExtendReservation", request, TIMEOUT, heard)

    def _say(self, line: str) -> None:
        self._stage.say(f"{self._held.key} at {self._node.name}: {line}")


def _event(use: Use) -> usage.UsageEvent:
    event = usage.UsageEvent(idempotency_key=use.key, customer_id=use.customer_id)
    if use.seat:
        event.holder_id = use.seat
        event.gauge_change = usage.GAUGE_CHANGE_ADD if use.adds else usage.GAUGE_CHANGE_REMOVE
    else:
        sold = CUSTOMERS[use.customer_id]
        event.event_name = sold.event
        if not sold.counts:
            event.measures["points"] = str(use.amount)
    return event


def _meaning(error: RpcError) -> tuple[Told, str]:
    """What a status says about whether something was written."""
    unknown = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.INTERNAL}
    return (Told.UNKNOWN if error.code() in unknown else Told.FAILED), str(error)
