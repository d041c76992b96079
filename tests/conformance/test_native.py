"""The conformance kit on the bare machine."""

from hypothesis import settings

from hvmmu.testing import BackendConformance


class TestNative(BackendConformance):
    """Every rule that a backend must keep."""

    backend = "native"
    examples = settings.default.max_examples
