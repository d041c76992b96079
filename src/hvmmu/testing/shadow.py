"""Level 3, to come."""
