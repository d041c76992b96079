"""The conformance suite on the PVM backend."""

from hvmmu.testing import BackendConformance


class TestPvm(BackendConformance):
    """Every rule that a backend must keep."""

    backend = "pvm"
