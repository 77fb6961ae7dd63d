"""Reservations: a module per verb, over what they share (`desk`, `commits`, `ending`)."""
