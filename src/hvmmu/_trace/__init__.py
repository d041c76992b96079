"""Traces of programs: read, reduced, stored and replayed."""
