"""Framing, splitting and statuses."""

import grpc
import pytest
from google.rpc import code_pb2

from purser.v1 import decision_pb2 as answers
from purser.v1 import entitlement_service_pb2 as api
from sidecar.deciding import errors
from sidecar.rpc.fast import split
from sidecar.rpc.service import framed
from sidecar.rpc.status import TABLE, row_for, status_of
from sidecar.runtime.trouble import NotWritten


@pytest.mark.parametrize("length", [0, 1, 127, 128, 300, 16_383, 16_384, 40_000])
def test_a_framed_decision_is_the_response(length: int) -> None:
    """Bytes that were joined by hand are what protobuf would have written."""
    decision = answers.Decision(message="x" * length)
    response = api.CheckAccessResponse.FromString(framed(decision.SerializeToString()))
    assert response.decision == decision


def test_a_batch_is_split_into_its_items() -> None:
    """The items of a batch are found without decoding it."""
    requests = [api.CheckAccessRequest(customer_id="c" * n, feature="f") for n in (0, 1, 100, 200, 255)]
    raw = api.BatchCheckAccessRequest(requests=requests).SerializeToString()
    assert split(raw) == [request.SerializeToString() for request in requests]


@pytest.mark.parametrize(
    "raw", [b"\x12\x00", b"\x0a", b"\x0a\x05abc", b"\x0a\xff\xff\xff", b"\x0a\x01a\x12\x00"]
)
def test_what_is_no_plain_batch_is_left_to_protobuf(raw: bytes) -> None:
    """Anything unusual goes the slow way."""
    assert split(raw) is None


def test_answers_merge() -> None:
    """The kept part, an id and a freshness joined are the whole decision."""
    whole = answers.Decision(decision_id="d" + "0" * 20, allowed=True, message="allowed")
    whole.freshness.revision = 7
    rest = answers.Decision(allowed=True, message="allowed").SerializeToString()
    fresh = whole.freshness.SerializeToString()
    joined = rest + b"\x0a\x15" + whole.decision_id.encode() + b"\x62" + bytes([len(fresh)]) + fresh
    assert answers.Decision.FromString(joined) == whole


def test_every_error_of_the_verbs_has_a_row() -> None:
    """No error that a verb may raise is INTERNAL."""
    for name, kind in vars(errors).items():
        if isinstance(kind, type) and issubclass(kind, Exception):
            assert kind in TABLE, name


def test_an_error_below_a_known_one_takes_its_row() -> None:
    """A full disk is a kind of not written."""

    class DiskFull(NotWritten):
        pass

    assert row_for(DiskFull("full")).code == code_pb2.RESOURCE_EXHAUSTED


def test_what_was_not_foreseen_shows_nothing_of_the_inside() -> None:
    """The message of a bug stays in the log."""
    status = status_of(RuntimeError("secret detail"))
    assert status.code is grpc.StatusCode.INTERNAL
    assert "secret" not in status.details
