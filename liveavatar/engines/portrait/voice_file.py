"""Reads a job's 48 kHz voice at the 16 kHz that the speech net hears."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np

from liveavatar.engines.portrait.mel import SAMPLE_RATE
from liveavatar.engines.portrait.motion import Floats


def read_16k(path: Path, *, num_samples: int) -> Floats:
    """Return `num_samples` of an audio file at 16 kHz, float32, full scale = 1; silence follows its end."""
    resampler = av.AudioResampler(format="flt", layout="mono", rate=SAMPLE_RATE)
    with av.open(str(path)) as container:
        pieces = [
            piece.to_ndarray()[0]
            for frame in container.decode(audio=0)
            for piece in resampler.resample(frame)
        ]
        pieces += [piece.to_ndarray()[0] for piece in resampler.resample(None)]
    samples = np.concatenate(pieces).astype(np.float32, copy=False)[:num_samples]
    return np.pad(samples, (0, num_samples - len(samples)))
