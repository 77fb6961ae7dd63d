"""What all parts of one history share."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, TypeVarTuple

import grpc

from tests.simulation.network import RpcError, Weather
from tests.simulation.node import Done, Node
from tests.simulation.oracle import Oracle
from tests.simulation.plane import Plane
from tests.simulation.story import Story
from tests.simulation.threads import Hub

Args = TypeVarTuple("Args")

_BLAMING: Final = {
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.ALREADY_EXISTS,
    grpc.StatusCode.UNIMPLEMENTED,
}


@dataclass(slots=True)
class Stage:
    """Whom things befall, and who watches."""

    story: Story
    hub: Hub
    oracle: Oracle
    plane: Plane
    weather: Weather
    logs: bool
    nodes: list[Node] = field(default_factory=list)
    is_healed: bool = False
    """Nothing goes wrong any more."""
    log: list[str] = field(default_factory=list)

    def now(self) -> float:
        """True seconds since the beginning."""
        return self.hub.time()

    def later(self, seconds: float, what: Callable[[*Args], object], *args: *Args) -> None:
        """After so many true seconds."""
        self.hub.loop.call_later(seconds, what, *args)

    def call(self, node: Node, rpc: str, request: Any, timeout: float, done: Done) -> None:
        """Somebody calls; see `Node.call`. Who asks for what there is, and repeats what he asked, is to hear of no
        error of ours, nor that he asked wrongly.
        """

        def heard(answer: bytes | RpcError) -> None:
            if isinstance(answer, RpcError) and answer.code() in _BLAMING:
                self.oracle.violations.append(f"blamed: {answer}")
            done(answer)

        node.call(rpc, request, timeout, heard)

    def say(self, line: str) -> None:
        """For who reads how it failed."""
        if self.logs:
            self.log.append(f"{self.hub.time():9.4f} {line}")
