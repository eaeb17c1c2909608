"""What holds for every test and, through the environment, for the kernels that test the notebooks."""

import ipaddress
import os
import socket
import tempfile

import hypothesis
import matplotlib
import pytest

from bpfree.evidence.book import kernels_environment

# The same cases everywhere, however long a busy machine takes for one. Cases of a test share its fixtures.
checks = hypothesis.HealthCheck.too_slow, hypothesis.HealthCheck.function_scoped_fixture
hypothesis.settings.register_profile("bpfree", deadline=None, derandomize=True, suppress_health_check=checks)
hypothesis.settings.load_profile("bpfree")
matplotlib.use("agg")  # in this process only: the kernels keep the back end that draws into the page


def pytest_configure(config):
    kernels = kernels_environment()  # in which notebooks are tested as they are executed
    kernels.__enter__()
    config.add_cleanup(lambda: kernels.__exit__(None, None, None))
    store = tempfile.TemporaryDirectory(prefix="bpfree-store-")
    config.add_cleanup(store.cleanup)
    os.environ["BPFREE_STORE"] = store.name  # tests neither read nor fill the user's store
    os.environ["TQDM_DISABLE"] = "1"
    os.environ["BPFREE_DEVICE"] = "cpu"  # what needs a GPU says so: tests/test_cuda.py
    # A warning in a notebook is an error, as it is in a test. But ipykernel warns of its own code when it
    # shuts down, and would then not shut down; and, since Python 3.12, when it starts.
    own = "ignore::PendingDeprecationWarning:ipykernel.kernelbase"
    os.environ["PYTHONWARNINGS"] = f"error,{own},ignore:There is no current event loop:DeprecationWarning"
    # The kernels test this checkout, wherever they start and whatever is installed.
    path = [str(config.rootpath), os.environ.get("PYTHONPATH")]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, path))
    # Sockets cannot be guarded in another process; this is where its downloads end.
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        os.environ[name] = os.environ[name.upper()] = "http://127.0.0.1:9"


def _is_local(host: object) -> bool:
    try:
        return host in (None, "", "localhost") or ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name, which would have to be looked up
        return False


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
    """Only this machine can be reached; what tries another one fails with the test's name on it."""

    def guarded(name, original):
        def call(self, address, *rest):
            if self.family in (socket.AF_INET, socket.AF_INET6) and not _is_local(address[0]):
                raise OSError(f"no network in tests: {name} to {address}")
            return original(self, address, *rest)

        return call

    def lookup(host, *rest, **options):
        if not _is_local(host):
            raise OSError(f"no network in tests: lookup of {host}")
        return original_lookup(host, *rest, **options)

    original_lookup = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, guarded(name, getattr(socket.socket, name)))
