"""Who is whose customer."""

from typing import Final

CUSTOMERS: Final = 100


def customer_of(number: int) -> str:
    """Of the sidecar with this number: ten of a thousand share one."""
    return f"customer-{number % CUSTOMERS}"
