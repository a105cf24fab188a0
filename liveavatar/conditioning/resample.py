"""Any sample rate -> 16 kHz, with the frequency response of the resampler the model was trained behind (soxr HQ).

Linear-phase Kaiser-windowed sinc filters: flat to 91.4 % of the slower Nyquist frequency, silent from 100 % on.
Rates in a small ratio to 16 kHz (8, 24, 32, 48 kHz ...) take one such filter. All others (44.1 kHz ...) take
the same filter without a change of rate, followed by a short interpolator that only has to keep the images
of an already band-limited signal away. Everything streams: memory does not grow with the recording.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

SAMPLE_RATE = 16_000

Doubles = NDArray[np.float64]
Floats = NDArray[np.float32]

_CUTOFF = 0.9568718  # centre of the transition band, as a fraction of the slower Nyquist frequency
_DIRECT_BETA, _DIRECT_TAPS = 13.0403, 193.0  # 126 dB; taps per sample of the slower rate
_SHARP_BETA, _SHARP_TAPS = 13.7114, 202.8  # 132 dB: the interpolator that follows costs some
_SHORT_CUTOFF, _SHORT_BETA, _SHORT_TAPS = 0.8944361, 14.06475, 12  # interpolator; taps per input sample
_LARGEST_SIMPLE_RATIO = 12
_FFT_SIZE = 1 << 15


def resample_to_16k(samples: NDArray[np.floating], sample_rate: int) -> Floats:
    """Return mono [num_samples] or [num_samples, channels] audio as float32 mono at 16 kHz.

    The length is ceil(num_samples * 16000 / sample_rate); channels are averaged.
    """
    mono = samples.mean(axis=1) if samples.ndim == 2 else samples
    resampler = Resampler(sample_rate)
    return np.concatenate([resampler.push(mono), resampler.flush()])


class Resampler:
    """Convert a mono stream of any length to 16 kHz, push by push."""

    def __init__(self, sample_rate: int) -> None:
        if not 1_000 <= sample_rate <= 768_000:
            raise ValueError(f"a sample rate of {sample_rate} Hz is not supported")
        self._rate = sample_rate
        self._num_in = self._num_out = 0
        self._stages = _stages(sample_rate)

    def push(self, samples: NDArray[np.floating]) -> Floats:
        """Take samples [num_samples]; return those of 16 kHz that are complete."""
        self._num_in += len(samples)
        return self._run(np.asarray(samples, np.float64), final=False)

    def flush(self) -> Floats:
        """Return the remaining samples; the stream is over."""
        return self._run(np.zeros(0), final=True)

    def _run(self, samples: Doubles, *, final: bool) -> Floats:
        for stage in self._stages:
            samples = stage.push(samples)
            if final:
                samples = np.concatenate([samples, stage.push(np.zeros(stage.delay))])
        num_due = -(-self._num_in * SAMPLE_RATE // self._rate) - self._num_out
        samples = samples[:num_due]
        if final:  # the last stage may round its number of samples down
            samples = np.pad(samples, (0, num_due - len(samples)))
        self._num_out += len(samples)
        return samples.astype(np.float32)


class _Stage(Protocol):
    delay: int  # input samples after which an impulse has left the filter

    def push(self, samples: Doubles) -> Doubles: ...


def _stages(sample_rate: int) -> list[_Stage]:
    ratio = Fraction(SAMPLE_RATE, sample_rate)
    if ratio == 1:
        return []
    up, down = ratio.numerator, ratio.denominator
    if max(up, down) <= _LARGEST_SIMPLE_RATIO:
        taps = _sharp_taps(max(up, down), _DIRECT_BETA, _DIRECT_TAPS)
        return [_FftFilter(taps * up, up=up, down=down)]
    oversampling = max(1, -(-2 * SAMPLE_RATE // sample_rate))  # the interpolator needs room above 8 kHz
    middle_rate = sample_rate * oversampling
    slower = min(sample_rate, SAMPLE_RATE)
    sharp = _sharp_taps(middle_rate / slower, _SHARP_BETA, _SHARP_TAPS)
    to_target = Fraction(SAMPLE_RATE, middle_rate)
    return [
        _FftFilter(sharp * oversampling, up=oversampling, down=1),
        _Interpolator(up=to_target.numerator, down=to_target.denominator),
    ]


def _sharp_taps(ratio: float, beta: float, taps_per_sample: float) -> Doubles:
    """Return a filter that cuts at the slower Nyquist frequency; `ratio` is its rate over the slower rate."""
    num_taps = int(np.ceil((taps_per_sample * ratio - 1) / 4)) * 4 + 1
    position = np.arange(num_taps, dtype=np.float64) - (num_taps - 1) / 2
    return _windowed_sinc(position, _CUTOFF / ratio, beta, num_taps / 2)


def _windowed_sinc(position: Doubles, cutoff: float, beta: float, half_width: float) -> Doubles:
    """Evaluate a Kaiser-windowed low pass at positions in samples; `cutoff` is a fraction of Nyquist."""
    inside = np.clip(1 - (position / half_width) ** 2, 0, None)
    window = np.where(np.abs(position) <= half_width, np.i0(beta * np.sqrt(inside)) / np.i0(beta), 0.0)
    return np.asarray(cutoff * np.sinc(cutoff * position) * window, np.float64)


class _FftFilter:
    """Insert up-1 zeros after every sample, filter, keep every down-th sample; the filter's delay is removed."""

    def __init__(self, taps: Doubles, *, up: int, down: int) -> None:
        self._num_taps, self._up, self._down = len(taps), up, down
        self.delay = len(taps) // up + 1
        self._spectrum = np.fft.rfft(taps, _FFT_SIZE)
        self._history = np.zeros(len(taps) - 1)
        self._num_to_skip = len(taps) // 2

    def push(self, samples: Doubles) -> Doubles:
        stuffed = np.zeros(len(samples) * self._up)
        stuffed[:: self._up] = samples
        signal = np.concatenate([self._history, stuffed])
        self._history = signal[len(signal) - self._num_taps + 1 :]
        hop = _FFT_SIZE - self._num_taps + 1
        pieces = [
            self._filter(signal[start : start + _FFT_SIZE])
            for start in range(0, len(signal) - self._num_taps + 1, hop)
        ]
        filtered = np.concatenate(pieces) if pieces else np.zeros(0)
        kept = filtered[self._num_to_skip :: self._down]
        # Where the next kept sample lies, counted from the end of what was filtered.
        self._num_to_skip += len(kept) * self._down - len(filtered)
        return kept

    def _filter(self, signal: Doubles) -> Doubles:
        """Return the samples of `signal` that have a whole filter length behind them."""
        spectrum = np.fft.rfft(signal, _FFT_SIZE) * self._spectrum
        return np.fft.irfft(spectrum, _FFT_SIZE)[self._num_taps - 1 : len(signal)]


class _Interpolator:
    """Evaluate a band-limited signal at the instants n * down / up, n = 0, 1, ..., with a short kernel."""

    def __init__(self, *, up: int, down: int) -> None:
        self._up, self._down = up, down
        self.delay = _SHORT_TAPS // 2 + down // up + 1
        offsets = np.arange(_SHORT_TAPS) - (_SHORT_TAPS // 2 - 1)  # neighbours of the instant, -5 .. 6
        fraction = np.arange(up)[:, None] / up
        self._kernels = _windowed_sinc(fraction - offsets, _SHORT_CUTOFF, _SHORT_BETA, _SHORT_TAPS / 2)
        self._buffer = np.zeros(_SHORT_TAPS // 2 - 1)  # silence before the first sample
        self._instant = 0  # of the next output, in input samples / up, counted from the buffer's sixth sample

    def push(self, samples: Doubles) -> Doubles:
        self._buffer = np.concatenate([self._buffer, samples])
        last_start = len(self._buffer) - _SHORT_TAPS
        num_out = max(0, (last_start * self._up + self._up - 1 - self._instant) // self._down + 1)
        instants = self._instant + np.arange(num_out) * self._down
        starts, phases = instants // self._up, instants % self._up
        outputs = np.zeros(num_out)
        for tap in range(_SHORT_TAPS):
            outputs += self._buffer[starts + tap] * self._kernels[phases, tap]
        self._instant += num_out * self._down
        num_done = min(self._instant // self._up, len(self._buffer))
        self._buffer = self._buffer[num_done:]
        self._instant -= num_done * self._up
        return outputs
