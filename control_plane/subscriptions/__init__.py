"""Subscriptions: a customer on a plan version, and the states it goes through."""
