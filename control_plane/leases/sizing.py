"""How large a lease is. Pure."""


def lease_size(*, need: int, amount: int, available: int, holders: int, partly: bool) -> int:
    """What is granted of `amount` wanted, of which `need` is waited for; `holders` share the balance, the
    asking one included.

    Never above `available`. Near the end nobody gets more than `available / (2 x holders)`, but the waiting
    call gets what it needs if that much is there. If it is not: everything where a part is of use (`partly`),
    else nothing, so that crumbs stay for a smaller call.
    """
    if available < need:
        return available if partly else 0
    return max(need, min(amount, available // (2 * max(1, holders))))
