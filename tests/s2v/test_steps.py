"""The number of denoising steps changes in the middle of a video, and a video goes on after a break."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from liveavatar.conditioning.audio_stream import AudioFeatureStream
from liveavatar.conditioning.reference import SinkLatents
from liveavatar.engines.s2v.bench.random_parts import random_audio_encoder
from liveavatar.pipeline.denoise import BlockDenoiser
from tests.s2v.tiny import SMALL_GRID, tiny_model

MODEL = tiny_model()


class Stream:
    """A denoiser with fixed noise and speech for every block."""

    def __init__(self, num_steps: int = 4) -> None:
        generator = torch.Generator().manual_seed(3)

        def noise(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator)

        self.denoiser = BlockDenoiser(
            MODEL,
            grid=SMALL_GRID,
            text=noise(4, MODEL.config["text_dim"]),
            sink_distance=lambda block, step: 20,
            num_steps=num_steps,
        )
        size = SMALL_GRID.latent_height, SMALL_GRID.latent_width
        self._noise = noise(16, 3, *size)
        self._speech = noise(1, 25, MODEL.config["audio_dim"], 12)
        self.denoiser.set_sink(SinkLatents(reference=noise(1, 16, 1, *size), motion=noise(1, 16, 19, *size)))

    def blocks(self, first: int, count: int) -> list[Tensor]:
        return [
            self.denoiser.denoise(self._noise, self._speech, block) for block in range(first, first + count)
        ]


def test_fewer_steps_begin_like_a_stream_that_always_had_them() -> None:
    """Before any block is remembered, only the schedule counts."""
    changed, always = Stream(), Stream(num_steps=2)
    changed.denoiser.set_steps(2)
    assert torch.equal(changed.blocks(0, 1)[0], always.blocks(0, 1)[0])


def test_the_first_and_last_level_remember_and_steps_come_back() -> None:
    stream, steady = Stream(), Stream()
    stream.blocks(0, 2)
    stream.denoiser.set_steps(2)
    two = stream.blocks(2, 1)[0]
    expected = steady.blocks(0, 3)[2]
    assert not torch.equal(two, expected)
    assert (two - expected).norm() < 1.5 * expected.norm(), "it has not lost its memory"
    stream.denoiser.set_steps(4)
    again = stream.blocks(3, 5)
    unchanged = steady.blocks(3, 5)
    assert all(torch.isfinite(block).all() for block in again)
    # Four blocks later nothing attends to the block that was made in two steps.
    assert (again[4] - unchanged[4]).norm() < 0.05 * unchanged[4].norm()


@pytest.mark.parametrize("num_steps", [0, 5])
def test_steps_without_caches_are_refused(num_steps: int) -> None:
    stream = Stream()
    with pytest.raises(ValueError, match=f"{num_steps} steps asked for, there are caches for 4"):
        stream.denoiser.set_steps(num_steps)
    with pytest.raises(ValueError, match="caches for 2"):
        Stream(num_steps=2).denoiser.set_steps(3)


def test_speech_from_a_later_block_on_is_that_of_the_whole() -> None:
    shape = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2, "conv_dim": [8] * 7}
    convolution = {"num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 2}
    torch.manual_seed(0)
    encoder = random_audio_encoder(shape | convolution, torch.device("cpu"), torch.float32)
    sound = np.random.default_rng(0).standard_normal((30, 1600)).astype(np.float32)

    def features(first_block: int) -> list[Tensor]:
        stream = AudioFeatureStream(encoder, first_block=first_block)
        pieces = [block for samples in sound for block in stream.push(samples)]
        return [*pieces, *stream.flush()]

    whole, later = features(0), features(3)
    assert len(whole) == len(later) + 3
    for expected, actual in zip(whole[3:], later, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-6)
