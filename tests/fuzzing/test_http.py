"""Whatever comes in over HTTP, REST and the sidecar's probes answer with a status, and go on."""

import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from control_plane.ledger.audit import audit
from sidecar.http.probes import Probes
from tests.fuzzing.calm import within_process_memory, without_traceback
from tests.fuzzing.effort import NowAndThen, cases
from tests.fuzzing.servers import DEADLINE_SECONDS, Target, target

GROWTH_MIB: Final = 200
"""So much more memory may thousands of odd requests ever need. No body is larger than 4 MiB."""
VALUES: Final = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**70), 2**70),
        st.floats(allow_nan=False, allow_infinity=False),
        st.sampled_from(
            [
                "",
                "acme",
                "good",
                "credit",
                "paid",
                "5",
                "-5",
                "NaN",
                "1e400",
                "9" * 400,
                "\0",
                "x" * 300,
                "P1M",
            ]
        ),
        st.sampled_from(["2030-01-01T00:00:00Z", "0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59"]),
        st.text(max_size=5),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)
NAMES: Final = (
    *(
        "id",
        "name",
        "customer_id",
        "plan",
        "unit",
        "amount",
        "priority",
        "effective_at",
        "expires_at",
        "scope",
    ),
    *("cost_basis", "starts_at", "add_ons", "parent_id", "external_ids", "idempotency_key", "event_name"),
    *(
        "timestamp",
        "properties",
        "type",
        "source",
        "subject",
        "time",
        "specversion",
        "state",
        "since",
        "label",
    ),
)
PATHS: Final = (
    *(
        "catalog/revisions",
        "customers",
        "customers/acme/suspend",
        "customers/acme/subjects",
        "customers/acme/ledger",
    ),
    *("customers/acme/balances", "customers/acme/entitlements", "customers/\N{SNOWMAN}", "customers/%00"),
    *("subscriptions", "subscriptions/sub_acme/payment-status", "grants", "events", "sidecars", "leases"),
    *("dead-letters", "dead-letters/x/replay", "trace/x", "trace/%ff", "nothing", "customers/" + "x" * 3000),
)
HEADERS: Final = st.dictionaries(
    st.sampled_from(
        ["Idempotency-Key", "If-Match", "Content-Type", "Authorization", "Content-Encoding", "Accept"]
    ),
    st.sampled_from(
        ["", "x", "x" * 6000, "application/json", "gzip", '"1"', "W/", "*", "Bearer x", "\xff", "text/plain"]
    ),
    max_size=3,
)
BODIES: Final = st.one_of(
    st.binary(max_size=60), st.sampled_from([b"[" * 9000, b'{"id": ' * 5000, b"1" * 6000, b"null"])
)


@pytest.fixture
def attacked(database_url: str, tmp_path: Path) -> Iterator[Target]:
    """One control plane for all requests of a test."""
    with without_traceback(), target(tmp_path, database=database_url) as made:
        made.is_well()
        with within_process_memory(mib=GROWTH_MIB):
            yield made


def test_any_rest_request_is_answered(attacked: Target) -> None:
    """Any value in any field, any bytes for a body, any header: never a 5xx; the books' equations hold."""
    looks = NowAndThen(50, attacked.is_well)

    @cases(120)
    @given(
        st.sampled_from(["GET", "POST", "PUT", "DELETE", "PATCH"]),
        st.sampled_from(PATHS),
        st.one_of(BODIES, st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=6)),
        HEADERS,
        st.dictionaries(
            st.sampled_from(["limit", "cursor", "customer_id", "move"]), st.text(max_size=6), max_size=2
        ),
    )
    def send(
        method: str, path: str, body: bytes | dict[str, Any], headers: dict[str, str], query: dict[str, str]
    ) -> None:
        content: dict[str, Any] = {"content": body} if isinstance(body, bytes) else {"json": body}
        raw = {name.encode(): value.encode("latin-1") for name, value in headers.items()}
        response = attacked.office.rest.request(
            method, f"/{path}", headers=list(raw.items()), params=query, timeout=DEADLINE_SECONDS, **content
        )
        assert response.status_code < 500, (response.status_code, response.text)
        if response.status_code >= 400 and response.status_code != 405:
            assert response.headers["content-type"] == "application/problem+json", response.text
        looks.tried()

    send()
    attacked.is_well()
    assert attacked.ask_books(audit) == []


@pytest.fixture
def probes() -> Iterator[Probes]:
    """A sidecar's small HTTP server."""
    served = Probes("127.0.0.1:0", ready=lambda: "", registry=CollectorRegistry(), refresh=lambda: None)
    served.start()
    with within_process_memory(mib=GROWTH_MIB):
        yield served
    served.stop()


LONG_LINE: Final = b"<long>"
"""Stands for a line that is longer than the server reads."""
PIECES: Final = (
    *(
        b"GET ",
        b"POST ",
        b"/livez",
        b"/metrics",
        b" HTTP/1.1",
        b" HTTP/9.9",
        b"\r\n",
        b"\r\n\r\n",
        b"\0",
        b"x: y",
    ),
    *(b"Host: a\r\n", b"Content-Length: -1\r\n", b"Content-Length: 99\r\n", b"Expect: 100-continue\r\n"),
    *(b"Transfer-Encoding: chunked\r\n", LONG_LINE, b"x: y\r\n" * 200),
)
RAW: Final = st.one_of(st.binary(max_size=80), st.lists(st.sampled_from(PIECES), max_size=8).map(b"".join))


@cases(80)
@given(RAW, st.booleans())
def test_any_bytes_at_the_probes(
    probes: Probes, capfd: pytest.CaptureFixture[str], raw: bytes, waits: bool
) -> None:
    """Bytes that are no request, or half of one, and callers who are gone before they are answered."""
    raw = raw.replace(LONG_LINE, b"x" * 70_000)
    with without_traceback(), socket.create_connection(("127.0.0.1", probes.port), timeout=5) as caller:
        _until_refused(lambda: caller.sendall(raw))
        if waits:
            _until_refused(lambda: caller.shutdown(socket.SHUT_WR))
            _until_refused(lambda: caller.recv(1 << 16))
    assert httpx.get(f"http://127.0.0.1:{probes.port}/livez", timeout=5).text == "ok\n"
    assert "Traceback" not in capfd.readouterr().err


def _until_refused(say: Callable[[], object]) -> None:
    """The server may hang up in the middle: that is an answer, too."""
    try:
        say()
    except OSError:  # reset, a broken pipe, or not connected any more
        return
