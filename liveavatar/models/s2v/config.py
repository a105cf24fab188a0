"""Fixed numbers of the S2V model and the geometry of its tokens.

A *latent frame* is what the VAE makes of 4 picture frames. A *block* is the 3 latent frames denoised together.
Each latent frame is cut into 2x2 patches, one token per patch. The *sink* is the conditioning prefix every block
attends to: the reference picture's tokens, then the motion tokens, newest first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

LATENT_CHANNELS = 16
PATCH = 2  # rows and columns of latents per token
FRAMES_PER_BLOCK = 3
CLIP_BLOCKS = 4  # blocks that attention can look back over, the current one included

REFERENCE_FRAME = 30  # temporal position of the reference picture before it starts to move along
MIN_SINK_DISTANCE, MAX_SINK_DISTANCE = (
    4,
    30,
)  # latent frames the reference is kept ahead of the block, drawn anew

MOTION_FRAMES = 19  # latent frames of past motion: 1 + 2 + 16, see framepack.py
AUDIO_HISTORY_FRAMES = 73  # picture frames of audio context put before each block

# The published checkpoint; the loader reads config.json, this serves tests and planning without a checkpoint.
S2V_14B: dict[str, Any] = {
    "model_type": "s2v",
    "dim": 5120,
    "ffn_dim": 13824,
    "freq_dim": 256,
    "num_heads": 40,
    "num_layers": 40,
    "in_dim": LATENT_CHANNELS,
    "out_dim": LATENT_CHANNELS,
    "text_len": 512,
    "text_dim": 4096,
    "eps": 1e-6,
    "cond_dim": 16,
    "audio_dim": 1024,
    "num_audio_token": 4,
    "enable_adain": True,
    "adain_mode": "attn_norm",
    "audio_inject_layers": [0, 4, 8, 12, 16, 20, 24, 27, 30, 33, 36, 39],
    "zero_init": True,
    "zero_timestep": True,
    "enable_motioner": False,
    "enable_tsm": False,
    "add_last_motion": True,
    "enable_framepack": True,
    "framepack_drop_mode": "padd",
}


@dataclass(frozen=True, kw_only=True)
class TokenGrid:
    """Token counts that follow from the height and width of the latents (picture size / 8)."""

    latent_height: int
    latent_width: int

    def __post_init__(self) -> None:
        if self.latent_height % PATCH or self.latent_width % PATCH:
            raise ValueError(
                f"latents of {self.latent_height}x{self.latent_width} cannot be cut into 2x2 patches"
            )

    @property
    def rows(self) -> int:
        """Token rows of a frame."""
        return self.latent_height // PATCH

    @property
    def columns(self) -> int:
        """Token columns of a frame."""
        return self.latent_width // PATCH

    @property
    def frame_tokens(self) -> int:
        """Tokens of one latent frame."""
        return self.rows * self.columns

    @property
    def block_tokens(self) -> int:
        """Tokens of one block."""
        return FRAMES_PER_BLOCK * self.frame_tokens

    @property
    def sink_tokens(self) -> int:
        """Tokens of the reference picture and of the packed motion."""
        half = (self.latent_height // 4) * (self.latent_width // 4)
        quarter = 4 * (self.latent_height // 8) * (self.latent_width // 8)
        return 2 * self.frame_tokens + half + quarter

    def window_tokens(self, num_blocks: int) -> int:
        """Tokens of the sink and of so many blocks."""
        return self.sink_tokens + num_blocks * self.block_tokens
