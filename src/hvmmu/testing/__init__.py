"""What it takes to show that a backend is right: programs for a bare guest."""
