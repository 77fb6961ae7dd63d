"""What sidecars report, booked exactly once. See README.md."""
