"""Records as bytes: stored without their number, and joined to a batch without being decoded.

Serialized protobuf fields may be concatenated, so a number is put in front of a body and records behind a head.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from google.protobuf.message import DecodeError

from purser.sync.v1 import session_pb2 as session
from purser.sync.v1 import usage_pb2 as usage
from sidecar.outbox.port import Identity
from sidecar.runtime.fields import block, varint

# Field number << 3 | wire type 2; held against the generated stubs by a test.
_RECORD_USAGE = b"\x1a"
_BATCH_RECORDS = b"\x22"


@dataclass(frozen=True, slots=True)
class EncodedBatch:
    """A run of one incarnation, ready to send: `payload` is an encoded ReportBatchRequest."""

    identity: Identity
    first_seq: int
    last_seq: int
    payload: bytes

    @property
    def size(self) -> int:
        """How many records."""
        return self.last_seq - self.first_seq + 1


def usage_body(encoded_usage: bytes) -> bytes:
    """The body of a record that holds this encoded Usage."""
    return block(_RECORD_USAGE, encoded_usage)


def returned_body(amount: session.LeaseAmount) -> bytes:
    """The body of a record that gives back a part of a lease."""
    returned = usage.ReturnedAmount(lease_id=amount.lease_id, amount=amount.amount)
    return usage.Record(returned=returned).SerializeToString()


def with_uid(body: bytes, uid: session.RecordUid) -> bytes:
    """The body of a record that was first written elsewhere; one that says so already stays as it is."""
    try:
        record = usage.Record.FromString(body)
    except DecodeError:
        return with_uid(garbled(body), uid)
    if record.HasField("first_written"):
        return body
    return usage.Record(first_written=uid).SerializeToString() + body


def garbled(body: bytes) -> bytes:
    """The body of a record that carries, for people to look at, what the disk has made of one."""
    return usage.Record(garbled=body).SerializeToString()


def encode_batch(identity: Identity, first_seq: int, bodies: Sequence[bytes]) -> EncodedBatch:
    """The run that starts at `first_seq`; an empty body is a number that holds nothing."""
    last_seq = first_seq + len(bodies) - 1
    head = usage.ReportBatchRequest(holder=identity.holder, first_seq=first_seq, last_seq=last_seq)
    parts = [head.SerializeToString()]
    for seq, body in enumerate(bodies, first_seq):
        numbered = b"\x08" + varint(seq)
        parts += (_BATCH_RECORDS, varint(len(numbered) + len(body)), numbered, body)
    return EncodedBatch(identity, first_seq, last_seq, b"".join(parts))
