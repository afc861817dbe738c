"""Fixtures shared by the tests."""

from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """Reference numbers and real recordings that live beside a checkout; tests that need them skip without."""
    if not (SHARED / "golden").is_dir() or not (SHARED / "data").is_dir():
        pytest.skip(f"no reference data beside the checkout (expected {SHARED.name}/golden and {SHARED.name}/data)")
    return SHARED
