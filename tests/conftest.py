"""Fixtures shared by all tests."""

import importlib.util
import os
import shutil
from pathlib import Path

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
ROOT = Path(__file__).resolve().parent.parent

needs_meteor = pytest.mark.skipif(
    importlib.util.find_spec("pycocoevalcap") is None or shutil.which("java") is None,
    reason="pycocoevalcap or Java is not installed",
)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data and golden values beside the checkout, where there is one."""
    folder = ROOT.parent / "shared"
    if not folder.is_dir():
        pytest.skip("the folder ../shared with real data and golden values is not here")
    return folder


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first, one for each of two processes."""
    longest = ["test_pipeline.py", "test_pages.py"]
    items.sort(key=lambda item: [item.path.name == name for name in longest], reverse=True)
