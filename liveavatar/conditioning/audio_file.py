"""A recording's samples as the audio encoder hears them: mono, 16 kHz, piece by piece."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np

from liveavatar.conditioning.resample import Floats, Resampler


def stream_16k(path: Path) -> Iterator[Floats]:
    """Yield the first sound track as mono float32 at 16 kHz, full scale = 1; memory does not grow with it.

    Channels are averaged. Raise av.FFmpegError when the file cannot be decoded.
    """
    with av.open(str(path)) as container:
        resampler: Resampler | None = None
        to_float = av.AudioResampler(format="fltp")
        for frame in container.decode(audio=0):
            for converted in to_float.resample(frame):
                if resampler is None:
                    resampler = Resampler(converted.sample_rate)
                yield resampler.push(converted.to_ndarray().mean(axis=0))
        if resampler is not None:
            yield resampler.flush()


def load_16k(path: Path) -> Floats:
    """Return the whole recording [num_samples] as `stream_16k` yields it."""
    return np.concatenate([np.zeros(0, np.float32), *stream_16k(path)])
