"""The conformance kit on the VMX backend."""

from hypothesis import settings

from hvmmu.testing import BackendConformance


class TestVmx(BackendConformance):
    """Every rule that a backend must keep."""

    backend = "vmx"
    examples = settings.default.max_examples
