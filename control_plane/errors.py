"""What can be wrong with a request to the control plane. Facts only: which status that is, the adapters' tables say."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class FieldProblem:
    """What is wrong with one field, named as the caller wrote it: `add_ons[0]`."""

    field: str
    problem: str


class Invalid(ValueError):
    """The request says something that can not be."""

    def __init__(self, *problems: FieldProblem) -> None:
        super().__init__("; ".join(f"{problem.field}: {problem.problem}" for problem in problems))
        self.problems = problems


class NotFound(LookupError):
    """There is no such thing."""

    def __init__(self, kind: str, name: str) -> None:
        super().__init__(f"there is no {kind} {name!r}")
        self.kind = kind
        self.name = name


class NothingBooked(NotFound):
    """It may exist, but no posting knows it."""

    def __init__(self, kind: str, name: str) -> None:
        super().__init__(kind, name)
        why = "checks, refusals and open reservations leave no posting; what a sidecar recorded comes within seconds"
        self.args = (f"nothing is booked under a {kind} {name!r}: {why}",)


class AlreadyExists(ValueError):
    """The id is taken."""

    def __init__(self, kind: str, name: str) -> None:
        super().__init__(f"{kind} {name!r} exists already")
        self.kind = kind
        self.name = name


class WrongState(ValueError):
    """The thing is there, but not in a state that allows this."""

    def __init__(self, kind: str, name: str, why: str) -> None:
        super().__init__(f"{kind} {name!r}: {why}")
        self.kind = kind
        self.name = name


class VersionConflict(ValueError):
    """Somebody else has changed it since it was read."""

    def __init__(self, kind: str, name: str, *, version: int) -> None:
        super().__init__(f"{kind} {name!r} has changed: it is at version {version} now")
        self.kind = kind
        self.name = name
        self.version = version
