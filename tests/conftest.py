"""What all tests share: where the real data lies."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The folder of real data: `SALCORE_TEST_DATA`, or `../shared/data` beside the repository."""
    folder = Path(os.environ.get("SALCORE_TEST_DATA", ROOT.parent / "shared" / "data")).resolve()
    if not folder.is_dir():
        message = f"no test data at {folder}: set SALCORE_TEST_DATA to the folder that holds fashion_mnist, mnist, ..."
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return folder
