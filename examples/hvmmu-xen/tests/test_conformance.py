"""The conformance suite of hvmmu: every check of it is a test here."""

from hvmmu.testing import BackendConformance


class TestXen(BackendConformance):
    """The backend, or the hook that takes its fast path, breaks a rule: the id says which."""

    backend = "xen"
