"""The MMU a hypervisor builds in software: routes faults, owns shadow tables, owes flushes."""
