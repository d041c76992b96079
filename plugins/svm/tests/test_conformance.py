"""The conformance kit on the SVM backend."""

from hypothesis import settings

from hvmmu.testing import BackendConformance


class TestSvm(BackendConformance):
    """Every rule that a backend must keep."""

    backend = "svm"
    examples = settings.default.max_examples
