"""How the keys are divided among programs when there are too few of them to keep the whole card busy."""

from __future__ import annotations

import math
from typing import NamedTuple

# What starting and ending a program costs, in tiles of keys; a guess. More parts than this are not worth their memory.
_TILES_OF_A_START, _MOST_PARTS = 4, 8


class Split(NamedTuple):
    """Programs that attend to all keys, and the number of parts the keys of the other tiles of queries fall into."""

    num_whole: int
    num_parts: int


def split_last_round(num_programs: int, num_key_tiles: int, num_processors: int) -> Split:
    """Return how the programs left over for the last round are divided so that it ends earliest."""
    num_left = num_programs % num_processors

    def cost(num_parts: int) -> int:
        rounds = math.ceil(num_left * num_parts / num_processors)
        return rounds * (math.ceil(num_key_tiles / num_parts) + _TILES_OF_A_START)

    num_parts = min(range(1, min(_MOST_PARTS, num_key_tiles) + 1), key=cost)
    return Split(num_programs - (num_left if num_parts > 1 else 0), num_parts)
