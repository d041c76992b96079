"""The conformance suite of hvmmu: every check of an MMU is a test here."""

from hvmmu.testing import MmuConformance


class TestVtlb(MmuConformance):
    """The virtual TLB breaks a rule: the id says which."""

    mmu = "vtlb"
