"""A pluggable hypervisor MMU: who handled each page fault, and what it cost."""

__version__ = "0.1.0"
"""The distribution's, which takes 20 ms to ask for."""
