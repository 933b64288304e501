"""What all tests share: Hypothesis settings, the tests' own modules on the path, and the backends one by one."""

import importlib
import pathlib
import sys
from importlib import util

import pytest
from hypothesis import HealthCheck, settings

from mpl_sparse import _core

# oracle.py and samples.py; last, so that no folder of tests hides an installed package
sys.path.append(str(pathlib.Path(__file__).parent))

settings.register_profile(
    "mpl_sparse", max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
# --hypothesis-profile=emulated: where a processor is emulated, some twenty times as slow
settings.register_profile(
    "emulated", settings.get_profile("mpl_sparse"), max_examples=8, suppress_health_check=list(HealthCheck)
)
settings.load_profile("mpl_sparse")


@pytest.fixture(scope="session", autouse=True)
def _away_from_the_sources(tmp_path_factory):
    """An empty working directory: what a subprocess imports is the installed package."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("away"))
        yield


@pytest.fixture(autouse=True)
def _seeded():
    """Torch's generator starts alike in every test: a failure comes again."""
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


@pytest.fixture(scope="session")
def torchvision():
    """torchvision, or a skip. A build for another torch has no operators; its models import once they are declared."""
    torch = pytest.importorskip("torch")
    if util.find_spec("torchvision") is None:
        pytest.skip("could not import 'torchvision'")
    try:
        return importlib.import_module("torchvision")
    except RuntimeError as error:
        assert "torchvision::nms does not exist" in str(error)
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        del sys.modules[name]
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    module = importlib.import_module("torchvision")
    module.declared_by_the_tests = library  # the operators live as long as this
    return module


@pytest.fixture
def one_thread():
    """Many small operations: two OpenMP threads wait for each other where another program has one of the cores."""
    torch = pytest.importorskip("torch")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=_core.backends())
def backend(request):
    """Runs the test once on each backend of this machine; by name, or for a module by pytest.mark.usefixtures."""
    before = _core.backend()
    _core.set_backend(request.param)
    assert _core.backend() == request.param
    yield request.param
    _core.set_backend(before)
