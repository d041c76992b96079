"""The MMU a hypervisor builds in software: faults routed, shadow tables owned, flushes accounted."""
