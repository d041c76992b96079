"""A pluggable hypervisor MMU: who handled each page fault, and what it cost."""
