"""Fixtures that all tests share."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def _restore_logging() -> Iterator[None]:
    """Commands that run inside a test set up logging; the next test must not inherit it."""
    logger = logging.getLogger("unseg")
    before = (list(logger.handlers), logger.level, logger.propagate)
    yield
    for handler in logger.handlers:
        if handler not in before[0]:
            handler.close()
    logger.handlers[:], logger.level, logger.propagate = before


@pytest.fixture
def rng() -> np.random.Generator:
    """Seeded random numbers, fresh for each test."""
    return np.random.default_rng(0)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Torch computes with one thread, as sums in another order would change the last bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def repository() -> Path:
    """The checkout that the tests belong to."""
    return REPOSITORY


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of real pictures; tests that ask for it skip where there is none."""
    folder = os.environ.get("UNSEG_DATA")
    if not folder:
        pytest.skip("UNSEG_DATA is not set: no real data on this machine")
    if not Path(folder).is_dir():
        pytest.fail(f"UNSEG_DATA={folder}: no such folder")
    return Path(folder).resolve()  # some tests change the folder they run in
