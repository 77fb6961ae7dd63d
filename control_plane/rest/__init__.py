"""REST for programs, under /v1."""
