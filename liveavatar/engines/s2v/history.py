"""What was made of a video, as far as its next pictures depend on it."""

from __future__ import annotations

from collections import deque
from pathlib import Path

import numpy as np

from liveavatar.conditioning.reference import PLAIN_MOTION_FRAMES
from liveavatar.engines.s2v.fitting import fit_into
from liveavatar.engines.s2v.video import Past
from liveavatar.media.made import read_pictures
from liveavatar.pipeline.decode import PICTURES_PER_BLOCK
from liveavatar.pipeline.delivery import Pictures


class History:
    """The first picture of a video and its latest ones, in whatever sizes they were made."""

    def __init__(self) -> None:
        self.num_blocks = 0  # made so far
        self._first: Pictures | None = None
        self._latest: deque[Pictures] = deque(maxlen=-(-PLAIN_MOTION_FRAMES // PICTURES_PER_BLOCK))  # blocks

    def add(self, pictures: Pictures) -> None:
        """Remember the next block [12, H, W, 3]."""
        if self._first is None:
            self._first = pictures[:1]
        self._latest.append(pictures)
        self.num_blocks += 1

    @classmethod
    def of_file(cls, path: Path, num_frames: int) -> History:
        """Return what a file knows of its first `num_frames` pictures; the rest of a block does not count."""
        history = cls()
        history.num_blocks = num_frames // PICTURES_PER_BLOCK
        if history.num_blocks:
            first, latest = read_pictures(
                path,
                num_frames=history.num_blocks * PICTURES_PER_BLOCK,
                num_latest=PLAIN_MOTION_FRAMES,
            )
            history._first = first
            history._latest.append(latest)
        return history

    def past(self, backdrop: Pictures) -> Past | None:
        """Return what was made in the size of `backdrop`, the still portrait [H, W, 3]; None at the beginning."""
        if self._first is None:
            return None
        latest = np.concatenate([fit_into(pictures, backdrop) for pictures in self._latest])[
            -PLAIN_MOTION_FRAMES:
        ]
        still = np.repeat(backdrop[None], PLAIN_MOTION_FRAMES - len(latest), axis=0)
        return Past(
            first=fit_into(self._first, backdrop),
            latest=np.concatenate([still, latest]),
            num_blocks=self.num_blocks,
        )
