"""One thread for each operation, a pretended accelerator, and no logging set up by one test left for the next."""

import logging
from collections.abc import Iterator

import pytest
import torch

from support.pretended import register

register()
torch.set_num_threads(1)  # small tensors gain nothing from more, and lose much beside other work


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    """The command line sets the package's logger up for its process; here it is one of many callers."""
    logger = logging.getLogger("vggsfm_cli")
    before = (logger.level, list(logger.handlers), logger.propagate)
    yield
    logger.setLevel(before[0])
    logger.handlers, logger.propagate = before[1], before[2]
