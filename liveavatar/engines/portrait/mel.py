"""Log-mel spectrogram of 16 kHz speech: 48 bands, 100 frames per second, numpy only."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from liveavatar.engines.portrait.motion import Floats

SAMPLE_RATE = 16_000
MEL_HOP = 160  # samples between two mel frames: 10 ms
NUM_MELS = 48
POWER_FLOOR = 1e-7  # added before the logarithm; about 100 dB below loud speech

_WINDOW = 400  # samples: 25 ms
_FFT_SIZE = 512
_LOWEST_HZ, _HIGHEST_HZ = 60.0, 7600.0
MEL_MARGIN = (_WINDOW - MEL_HOP) // 2  # samples that a mel frame needs on each side of its own hop


def log_mel(samples: Floats) -> Floats:
    """Return (F, 48) natural-log mel power of F * 160 samples with MEL_MARGIN more on each side.

    Frame i is centred on the middle of its own hop. Raises ValueError unless the length is F hops plus
    both margins, so that a caller can never shift the spectrogram by accident.
    """
    num_frames, rest = divmod(len(samples) - 2 * MEL_MARGIN, MEL_HOP)
    if rest or num_frames < 0:
        raise ValueError(f"{len(samples)} samples are not whole hops of {MEL_HOP} plus two margins")
    frames = np.lib.stride_tricks.sliding_window_view(samples, _WINDOW)[::MEL_HOP][:num_frames]
    spectrum = np.fft.rfft(frames * _hann_window(), n=_FFT_SIZE)
    power = np.square(spectrum.real) + np.square(spectrum.imag)
    return np.asarray(np.log(power @ _mel_bank() + POWER_FLOOR), np.float32)


@cache
def _hann_window() -> Floats:
    return np.hanning(_WINDOW + 1)[:-1].astype(np.float32)


@cache
def _mel_bank() -> Floats:
    """Return the (257, 48) triangular filters, evenly spaced on the mel scale."""
    edges_hz = _mel_to_hz(np.linspace(_hz_to_mel(_LOWEST_HZ), _hz_to_mel(_HIGHEST_HZ), NUM_MELS + 2))
    bins_hz = np.arange(_FFT_SIZE // 2 + 1) * SAMPLE_RATE / _FFT_SIZE
    low, middle, high = edges_hz[:-2], edges_hz[1:-1], edges_hz[2:]
    rising = (bins_hz[:, None] - low) / (middle - low)
    falling = (high - bins_hz[:, None]) / (high - middle)
    return np.clip(np.minimum(rising, falling), 0, 1).astype(np.float32)


def _hz_to_mel(hz: float) -> float:
    return float(2595 * np.log10(1 + hz / 700))


def _mel_to_hz(mel: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(700 * (10 ** (mel / 2595) - 1), np.float64)
