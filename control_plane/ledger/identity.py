"""Names of rows: those that follow from what they are, and those that only have to be unique."""

import hashlib
import secrets
from datetime import datetime

from control_plane.db.types import to_micros
from sidecar.engine.values import BalanceRef

_DIGEST_BYTES = 15


def balance_id(ref: BalanceRef) -> str:
    """The id of a balance, the same wherever it is computed."""
    return f"bal_{_digest(ref.customer_id, ref.subject_id, ref.balance)}"


def occurrence_id(balance: str, role: str, starts_at: datetime, source: str = "") -> str:
    """The id of a period's occurrence: two transactions that make it make the same row."""
    return f"occ_{_digest(balance, role, str(to_micros(starts_at)), source)}"


def new_id(prefix: str, at: datetime) -> str:
    """A unique id that sorts by its instant, which keeps indexes dense at their end."""
    return f"{prefix}_{to_micros(at):014x}{secrets.token_hex(8)}"


def _digest(*parts: str) -> str:
    # Lengths in front: ("ab", "c") and ("a", "bc") are different things.
    text = "".join(f"{len(part)}:{part}" for part in parts)
    return hashlib.blake2b(text.encode(), digest_size=_DIGEST_BYTES).hexdigest()
