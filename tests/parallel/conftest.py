"""The processes that all tests of this folder share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.parallel.rank_pool import RankPool


@pytest.fixture(scope="session")
def pool() -> Iterator[RankPool]:
    with RankPool(5) as pool:
        yield pool
