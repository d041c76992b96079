"""The specification of the hardware, in readable Python; no hypervisor policy is in it."""
