"""Level 6, to come."""
