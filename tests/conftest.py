"""What every test gets: one thread, a fixed seed, hypothesis profiles, and the right package."""

import os

# Two workers on two cores: more threads would only get in each other's way. Before torch loads.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from pathlib import Path

import pytest
import torch
from hypothesis import register_random, settings

import hirescam

ROOT = Path(__file__).parents[1]


class TorchRandom:
    """torch's generator as hypothesis wants it, so that every example starts from one state."""

    seed = staticmethod(torch.manual_seed)
    getstate = staticmethod(torch.get_rng_state)
    setstate = staticmethod(torch.set_rng_state)


TORCH_RANDOM = TorchRandom()  # hypothesis keeps only a weak reference
register_random(TORCH_RANDOM)

settings.register_profile(
    "fast",
    max_examples=25,
    deadline=None,
    # The same examples on every machine in CI, new ones at home.
    derandomize=bool(os.environ.get("CI")),
    print_blob=True,
)
settings.register_profile("thorough", settings.get_profile("fast"), max_examples=1000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fast"))


def pytest_configure() -> None:
    """Refuse to test the source tree when the built wheel was asked for."""
    package = Path(hirescam.__file__).resolve()
    if os.environ.get("HIRESCAM_TEST_WHEEL") and package.is_relative_to(ROOT / "src"):
        raise pytest.UsageError(
            f"the wheel should be tested, but hirescam is imported from {package.parent}; "
            "unset PYTHONPATH and uninstall an editable install"
        )
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def seed() -> int:
    """Start every test from the same random state."""
    torch.manual_seed(0)
    return 0
