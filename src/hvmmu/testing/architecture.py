"""Level 2, to come."""
