"""Audio features for speech that is still arriving, or too long to be looked at in one piece.

wav2vec2 looks at everything it is given, and its input is normalised over everything it is given. Here it sees a
window that slides along: the block at hand, some seconds before it and a fraction of a second after it. Level
and offset are those of all the speech heard so far. Memory and time per block stay the same for ever; what that
changes in the features is measured by benchmarks/audio_window.py and told in docs/model.md.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from liveavatar.conditioning.audio import (
    ENCODER_RATE,
    FEATURE_RATE,
    AudioEncoder,
    nearest_feature,
)
from liveavatar.conditioning.resample import SAMPLE_RATE, Floats

_HOP = SAMPLE_RATE // ENCODER_RATE  # samples from one encoder frame to the next
_RECEPTIVE_FIELD = 400  # samples under one encoder frame
_STATES_PER_FEATURE = ENCODER_RATE / FEATURE_RATE

# The loudness assumed before anything is heard, and for how long it counts: the first breath is not blown up.
_PRIOR_RMS = 0.05
_PRIOR_SAMPLES = SAMPLE_RATE


@dataclass(frozen=True, kw_only=True)
class Window:
    """How much sound the encoder sees around the block at hand, in seconds."""

    before_s: float = 4.0
    after_s: float = 0.48  # speech that must have arrived before the block can be made: pure delay


class AudioFeatureStream:
    """Turn speech that arrives in pieces into features, one block of picture frames at a time.

    `num_samples` is the length of the whole speech where it is known: features are then taken at the instants of the
    whole-file rule, which lays the first and last frames of both rates on each other. Features begin with
    `first_block`; the speech before it is only listened to, so that they are those of an uninterrupted stream.
    """

    def __init__(
        self,
        encoder: AudioEncoder,
        *,
        frames_per_block: int = 12,
        window: Window | None = None,
        num_samples: int | None = None,
        first_block: int = 0,
    ) -> None:
        self._encoder = encoder
        self._frames_per_block = frames_per_block
        window = window or Window()
        self._num_before = round(window.before_s * ENCODER_RATE)  # in encoder frames
        self._num_after = round(window.after_s * ENCODER_RATE)
        self._states_per_feature = _STATES_PER_FEATURE if num_samples is None else _stretched(num_samples)
        self._level = _RunningLevel()
        self._samples = np.zeros(0, np.float32)  # what later blocks still need
        self._first_state = 0  # encoder frame at which `_samples` begins
        self._num_heard = 0
        self._block = first_block

    def push(self, samples: Floats) -> Iterator[Tensor]:
        """Take 16 kHz samples; yield [1, layers + 1, C, frames_per_block] for each block that is ready."""
        self._samples = np.concatenate([self._samples, samples])
        self._num_heard += len(samples)
        self._level.add(samples)
        while self._num_heard >= self._samples_needed():
            yield self._next_block(_num_states(self._num_heard))

    def flush(self) -> Iterator[Tensor]:
        """Yield the blocks that hold the end of the speech; where there is none, features are zero."""
        num_states = _num_states(self._num_heard)
        num_features = num_states * FEATURE_RATE // ENCODER_RATE
        while nearest_feature(self._block * self._frames_per_block) < num_features:
            yield self._next_block(num_states, num_features)

    def _positions(self) -> tuple[Tensor, Tensor]:
        """Return the 30 Hz features of the current block, and where they lie among the encoder's frames."""
        first = self._block * self._frames_per_block
        features = torch.tensor([nearest_feature(first + frame) for frame in range(self._frames_per_block)])
        return features, features * self._states_per_feature

    def _samples_needed(self) -> int:
        _, positions = self._positions()
        last_state = math.ceil(positions[-1].item()) + self._num_after
        return last_state * _HOP + _RECEPTIVE_FIELD

    def _next_block(self, num_states: int, num_features: int | None = None) -> Tensor:
        features, positions = self._positions()
        start = max(math.floor(positions[0].item()) - self._num_before, 0)
        stop = min(math.ceil(positions[-1].item()) + self._num_after + 1, num_states)
        self._forget_before(start)
        window = self._samples[: (stop - start - 1) * _HOP + _RECEPTIVE_FIELD]
        states = self._encoder.hidden_states(
            torch.from_numpy(window), mean=self._level.mean, std=self._level.std
        )
        block = interpolate(states, positions - start)
        if num_features is not None:
            block = torch.where((features < num_features)[None, :, None].to(block.device), block, 0.0)
        self._block += 1
        return block.mT[None]

    def _forget_before(self, state: int) -> None:
        self._samples = self._samples[(state - self._first_state) * _HOP :]
        self._first_state = state


class _RunningLevel:
    """Mean and standard deviation of everything heard."""

    def __init__(self) -> None:
        self._num_samples = float(_PRIOR_SAMPLES)
        self._sum = 0.0
        self._sum_of_squares = _PRIOR_SAMPLES * _PRIOR_RMS**2

    def add(self, samples: Floats) -> None:
        exact = samples.astype(np.float64)
        self._num_samples += len(samples)
        self._sum += float(exact.sum())
        self._sum_of_squares += float(exact @ exact)

    @property
    def mean(self) -> float:
        return self._sum / self._num_samples

    @property
    def std(self) -> float:
        return math.sqrt(max(self._sum_of_squares / self._num_samples - self.mean**2, 1e-7))


def _num_states(num_samples: int) -> int:
    """Return how many encoder frames so many samples give."""
    return max(0, (num_samples - _RECEPTIVE_FIELD) // _HOP + 1)


def _stretched(num_samples: int) -> float:
    """Return the encoder frames per feature of the whole-file rule."""
    num_states = _num_states(num_samples)
    num_features = num_states * FEATURE_RATE // ENCODER_RATE
    return (num_states - 1) / (num_features - 1) if num_features > 1 else _STATES_PER_FEATURE


def interpolate(states: Tensor, positions: Tensor) -> Tensor:
    """Return the states [L, T, C] at fractional positions [N]: [L, N, C], float32."""
    last = states.shape[1] - 1
    positions = positions.clamp(max=last)
    before = positions.floor().long()
    after = (before + 1).clamp(max=last)
    share = (positions - before)[None, :, None]
    # So few values go to a card without waiting for its work.
    before, after, share = (x.to(states.device, non_blocking=True) for x in (before, after, share))
    states = states.float()
    return states[:, before] * (1 - share) + states[:, after] * share
