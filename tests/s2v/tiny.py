"""A model of two thin layers and one stream through it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from liveavatar.core.parallel import KvPrecision
from liveavatar.models.s2v import S2V_14B, S2VTransformer, TokenGrid
from liveavatar.models.s2v.attention import KeyValues
from liveavatar.models.s2v.audio_injector import AudioCondition
from liveavatar.models.s2v.kv_cache import KVCache
from liveavatar.models.s2v.model import TimeCondition

TINY_CONFIG: dict[str, Any] = S2V_14B | {
    "dim": 48,
    "ffn_dim": 64,
    "num_heads": 2,
    "num_layers": 2,
    "freq_dim": 16,
    "text_dim": 8,
    "text_len": 6,
    "audio_dim": 8,
    "audio_inject_layers": [0],
}
SMALL_GRID = TokenGrid(latent_height=8, latent_width=12)


def tiny_model(**changes: object) -> S2VTransformer:
    """Return a model whose every parameter is random, the same at each call."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = S2VTransformer(**(TINY_CONFIG | changes)).eval()
        for parameter in model.parameters():
            parameter.data.add_(torch.randn_like(parameter), alpha=0.05)
    return model


class TinyStream:
    """The conditions of one video and the cache of one step, with the sink in place."""

    def __init__(
        self,
        model: S2VTransformer,
        grid: TokenGrid = SMALL_GRID,
        capacity_blocks: int = 4,
        *,
        kv_precision: KvPrecision = "bf16",
        cache: KVCache | None = None,
    ) -> None:
        self.model, self.grid = model, grid
        self._generator = torch.Generator().manual_seed(2)
        self.text: list[KeyValues] = model.encode_text(self._noise(4, model.config["text_dim"]))
        self.time: TimeCondition = model.encode_time(600.0)
        self.audio: dict[int, AudioCondition] = model.encode_audio(
            self._noise(1, 25, model.config["audio_dim"], 12)
        )
        self.latents = self.latents_of(3)
        if cache is None:
            (cache,) = model.allocate_caches(grid, 1, capacity_blocks=capacity_blocks, precision=kv_precision)
        self.cache: KVCache = cache
        self.refresh_sink()

    def refresh_sink(self) -> None:
        """Prefill with a new random picture and motion."""
        self.model.prefill(self.latents_of(1), self.latents_of(19), self.text, [self.cache])

    def latents_of(self, frames: int) -> Tensor:
        """Return random latents of this stream's size."""
        return self._noise(16, frames, self.grid.latent_height, self.grid.latent_width)

    def run(self, block_index: int, jitter: int = 20, forward: Any = None) -> Tensor:
        """Return the velocity of a block; every block has the same latents."""
        position = self.cache.locate(block_index, jitter)
        velocity: Tensor = (self.model if forward is None else forward)(
            self.latents, self.time, self.text, self.audio, position, self.cache
        )
        return velocity

    def _noise(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self._generator).to(self.model.device)
