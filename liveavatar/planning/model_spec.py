"""Sizes and arithmetic of the 14B S2V model, from the shapes of the published checkpoint. No torch, no files.

One token is a 2x2 patch of latents; latents are an eighth of the picture's sides; a block is 3 latent frames. The
window of self-attention is the sink (reference picture and packed motion) and the 4 latest blocks. Arithmetic counts
a multiply and an add as two operations.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cached_property, lru_cache

from liveavatar.core.parallel import MAX_STEPS as MAX_STEPS

WIDTH, FFN_WIDTH, NUM_LAYERS, NUM_HEADS, TEXT_TOKENS = 5120, 13824, 40, 40, 512
FRAMES_PER_BLOCK, WINDOW_BLOCKS, PICTURES_PER_BLOCK = 3, 4, 12
INJECTED_LAYERS = (0, 4, 8, 12, 16, 20, 24, 27, 30, 33, 36, 39)

# Parameters of one transformer block: 4 + 4 square projections, the feed-forward, biases, norms, modulation.
_SQUARE = WIDTH * WIDTH
BLOCK_LINEAR_PARAMETERS = 8 * _SQUARE + 2 * WIDTH * FFN_WIDTH  # weight matrices only
_BLOCK_REST = (
    9 * WIDTH + FFN_WIDTH + 4 * WIDTH + 2 * WIDTH + 6 * WIDTH
)  # biases, q/k norms, norm3, modulation
BLOCK_PARAMETERS = BLOCK_LINEAR_PARAMETERS + _BLOCK_REST

# One audio injection: a cross-attention and the linear layer of its adaptive norm.
INJECTION_LINEAR_PARAMETERS = 4 * _SQUARE + 2 * _SQUARE
INJECTION_PARAMETERS = INJECTION_LINEAR_PARAMETERS + 4 * WIDTH + 2 * WIDTH + 2 * WIDTH

# Everything else: time, text and audio encoders, patch and motion embeddings, head.
TIME_PROJECTION, AUDIO_ENCODER, TEXT_EMBEDDING = 157_317_120, 95_051_545, 47_196_160
TIME_EMBEDDING, FRAME_PACKER = 27_535_360, 23_936_000
HEAD, PATCH_EMBEDDING, POSE_ENCODER, SINK_MASK = 337_984, 332_800, 332_800, 15_360
REST_PARAMETERS = (
    TIME_PROJECTION + AUDIO_ENCODER + TEXT_EMBEDDING + TIME_EMBEDDING + FRAME_PACKER
    + HEAD + PATCH_EMBEDDING + POSE_ENCODER + SINK_MASK
)  # fmt: skip
TRANSFORMER_PARAMETERS = (
    NUM_LAYERS * BLOCK_PARAMETERS + len(INJECTED_LAYERS) * INJECTION_PARAMETERS + REST_PARAMETERS
)

VAE_PARAMETERS, TEXT_ENCODER_PARAMETERS = 126_892_531, 5_681_000_000


@dataclass(frozen=True)
class VideoSize:
    """A picture size the model can make, and the token counts that follow."""

    width: int
    height: int

    def __post_init__(self) -> None:
        if self.width <= 0 or self.height <= 0 or self.width % 64 or self.height % 64:
            raise ValueError(f"sides must be multiples of 64, got {self.width}x{self.height}")

    def __str__(self) -> str:
        return f"{self.width}x{self.height}"

    @cached_property
    def pixels(self) -> int:
        """Return the pixels of a picture."""
        return self.width * self.height

    @cached_property
    def frame_tokens(self) -> int:
        """Return the tokens of one latent frame."""
        return self.pixels // 256

    @cached_property
    def block_tokens(self) -> int:
        """Return the tokens of one block."""
        return FRAMES_PER_BLOCK * self.frame_tokens

    @cached_property
    def sink_tokens(self) -> int:
        """Return the tokens of reference and packed motion: two whole frames and two coarser halves."""
        return 2 * self.frame_tokens + self.frame_tokens // 2

    @cached_property
    def window_tokens(self) -> int:
        """Return the tokens a block attends to once the window is full."""
        return self.sink_tokens + WINDOW_BLOCKS * self.block_tokens


@dataclass(frozen=True)
class StepWork:
    """Operations of one denoising step."""

    matrix_flops: float
    attention_flops: float


def step_work(size: VideoSize, *, window_blocks: int = WINDOW_BLOCKS) -> StepWork:
    """Return the work of one step on one block, with the prompt's keys and values computed once per video."""
    tokens = size.block_tokens
    audio = 2 * tokens * len(INJECTED_LAYERS) * 2 * _SQUARE  # q and o; keys are a handful of tokens
    blocks = 2 * tokens * NUM_LAYERS * (BLOCK_LINEAR_PARAMETERS - 2 * _SQUARE)
    keys = size.sink_tokens + window_blocks * size.block_tokens
    self_attention = 4 * tokens * keys * WIDTH * NUM_LAYERS
    cross_attention = 4 * tokens * TEXT_TOKENS * WIDTH * NUM_LAYERS
    return StepWork(matrix_flops=blocks + audio, attention_flops=self_attention + cross_attention)


def prefill_flops(size: VideoSize) -> StepWork:
    """Return the work of computing the sink, once per video and again when it is refreshed."""
    tokens = size.sink_tokens
    return StepWork(
        matrix_flops=2 * tokens * NUM_LAYERS * (BLOCK_LINEAR_PARAMETERS - 2 * _SQUARE),
        attention_flops=4 * tokens * (tokens + TEXT_TOKENS) * WIDTH * NUM_LAYERS,
    )


def layers_of_part(num_parts: int) -> list[range]:
    """Return the layers of each part when the model is cut into `num_parts` of nearly the same length."""
    edges = [round(NUM_LAYERS * part / num_parts) for part in range(num_parts + 1)]
    return [range(first, last) for first, last in itertools.pairwise(edges)]


@lru_cache(maxsize=64)
def parts(num_parts: int) -> tuple[tuple[int, int], ...]:
    """Return (layers, audio injections) of each part."""
    return tuple(
        (len(layers), sum(layer in layers for layer in INJECTED_LAYERS))
        for layers in layers_of_part(num_parts)
    )
