"""A small guest OS: address spaces, demand paging, copy-on-write, and real page tables it owns."""
