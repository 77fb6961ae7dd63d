"""Customers and their subjects, and what each customer is entitled to."""
