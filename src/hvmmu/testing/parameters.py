"""Level 1, to come."""
