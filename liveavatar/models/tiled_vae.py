"""The video autoencoder with most of its work in two tiles: working memory for a part of the picture at a time.

Only what is large is tiled: the layers between pixels and the resolution of latents. Those at the resolution of
latents see the whole picture, attention among them, so tiles do not differ in tone. The longer side is cut in two; more
tiles would save nothing, as neighbours share much, kept twice. They share 64 pixels (8 latents), which are computed
twice; in the middle 16 of them, where both are nearly free of the missing surroundings, one fades into the other. Both
tiles have one size, so one compiled graph serves them, and each is a stream of its own, with its own causal cache.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from diffusers import AutoencoderKLWan
from torch import Tensor, nn

from liveavatar.models.vae import (
    StreamingVae,
    VaeCache,
    cache_after_first_frame,
    cache_after_first_latent,
    cache_slots,
    channels_last,
    check_frames,
    complete,
)

OVERLAP_LATENTS, _FADE_LATENTS = 8, 2
_PIXELS_PER_LATENT = 8

_Part = Callable[[Tensor, VaeCache | None], tuple[Tensor, VaeCache]]


class TiledVae(StreamingVae):
    """Encodes and decodes like StreamingVae. Its cache is that of the whole, then that of every tile."""

    is_tiled = True

    def __init__(self, network: AutoencoderKLWan) -> None:
        super().__init__(network)
        decoder, encoder = self.network.decoder, self.network.encoder
        self._num_whole_decoder_slots = len(cache_slots(nn.ModuleList([decoder.conv_in, decoder.mid_block])))
        self._num_whole_encoder_slots = len(cache_slots(nn.ModuleList([encoder.mid_block, encoder.conv_out])))
        self._run_decoder_tile: _Part = self._decode_tile
        self._run_encoder_tile: _Part = self._encode_tile

    def compile_streams(self, **options: object) -> None:
        """Compile the steady call of a tile in both directions with `torch.compile(**options)`."""
        self._run_encoder_tile = torch.compile(self._encode_tile, fullgraph=True, **options)  # type: ignore[call-overload]
        self._run_decoder_tile = torch.compile(self._decode_tile, fullgraph=True, **options)  # type: ignore[call-overload]

    @torch.inference_mode()
    def encode_next(self, frames: Tensor, cache: VaeCache | None) -> tuple[Tensor, VaeCache]:
        """Encode the next frames of a stream; see StreamingVae."""
        check_frames(frames, is_beginning=cache is None)
        return _first_then_rest(self._encode, frames.to(self.mean_C), cache)

    @torch.inference_mode()
    def decode_next(self, latents: Tensor, cache: VaeCache | None) -> tuple[Tensor, VaeCache]:
        """Decode the next latents of a stream; see StreamingVae."""
        return _first_then_rest(self._decode, latents.to(self.mean_C), cache)

    def _encode(self, frames: Tensor, cache: VaeCache | None) -> tuple[Tensor, VaeCache]:
        whole_cache, tile_caches = self._split(cache, self._num_whole_encoder_slots)
        run = self._encode_tile if cache is None else self._run_encoder_tile
        hidden, kept = self._over_tiles(run, frames, tile_caches, _PIXELS_PER_LATENT, 1)
        encoder, slots, index = self.network.encoder, _slots(whole_cache, self._num_whole_encoder_slots), [0]
        hidden = encoder.mid_block(hidden, feat_cache=slots, feat_idx=index)
        hidden = _causal(encoder.conv_out, encoder.nonlinearity(encoder.norm_out(hidden)), slots, index)
        latents = self._normalise(self.network.quant_conv(hidden))
        return latents, (*cache_after_first_latent(slots), *kept)

    def _decode(self, latents: Tensor, cache: VaeCache | None) -> tuple[Tensor, VaeCache]:
        whole_cache, tile_caches = self._split(cache, self._num_whole_decoder_slots)
        decoder, slots, index = self.network.decoder, _slots(whole_cache, self._num_whole_decoder_slots), [0]
        hidden = self.network.post_quant_conv(self._denormalise(latents))
        hidden = _causal(decoder.conv_in, hidden, slots, index)
        hidden = decoder.mid_block(hidden, feat_cache=slots, feat_idx=index)
        run = self._decode_tile if cache is None else self._run_decoder_tile
        frames, kept = self._over_tiles(run, hidden, tile_caches, 1, _PIXELS_PER_LATENT)
        return frames, (*cache_after_first_latent(slots), *kept)

    def _encode_tile(self, frames: Tensor, cache: VaeCache | None) -> tuple[Tensor, VaeCache]:
        encoder, index = self.network.encoder, [0]
        flags = self._encoder_slots[: -self._num_whole_encoder_slots]
        slots = _slots(cache, len(flags))
        hidden = _causal(encoder.conv_in, frames, slots, index)
        for block in encoder.down_blocks:
            hidden = block(hidden, feat_cache=slots, feat_idx=index)
        return hidden, cache_after_first_frame(slots, flags) if cache is None else complete(slots)

    def _decode_tile(self, hidden: Tensor, cache: VaeCache | None) -> tuple[Tensor, VaeCache]:
        decoder, index = self.network.decoder, [0]
        slots = _slots(cache, len(self._decoder_slots) - self._num_whole_decoder_slots)
        for block in decoder.up_blocks:
            hidden = block(hidden, feat_cache=slots, feat_idx=index, first_chunk=cache is None)
        hidden = _causal(decoder.conv_out, decoder.nonlinearity(decoder.norm_out(hidden)), slots, index)
        return hidden.clamp(-1, 1), cache_after_first_latent(slots) if cache is None else complete(slots)

    def _over_tiles(
        self, run: _Part, video: Tensor, caches: list[VaeCache | None], unit_in: int, unit_out: int
    ) -> tuple[Tensor, VaeCache]:
        """Run each tile and put the results together. A unit is the side of a latent before or after."""
        height, width = (side // unit_in for side in video.shape[-2:])
        if width >= height:
            tiles = [(slice(0, height), columns) for columns in halves(width)]
        else:
            tiles = [(rows, slice(0, width)) for rows in halves(height)]
        whole: Tensor | None = None
        kept: list[Tensor] = []
        for (rows, columns), cache in zip(tiles, caches, strict=True):
            part = channels_last(video[..., _scaled(rows, unit_in), _scaled(columns, unit_in)])
            tile, next_cache = run(part, cache)
            kept += next_cache
            if whole is None:
                whole = tile.new_zeros(*tile.shape[:-2], height * unit_out, width * unit_out)
            fade = _fade(rows, height, unit_out, tile)[:, None] * _fade(columns, width, unit_out, tile)
            whole[..., _scaled(rows, unit_out), _scaled(columns, unit_out)] += tile * fade
        assert whole is not None, "there is at least one tile"
        return channels_last(whole), tuple(kept)

    def _split(self, cache: VaeCache | None, num_whole: int) -> tuple[VaeCache | None, list[VaeCache | None]]:
        """Return the cache of the whole and that of each tile."""
        if cache is None:
            return None, [None, None]
        middle = (num_whole + len(cache)) // 2
        return cache[:num_whole], [cache[num_whole:middle], cache[middle:]]


def tiled(vae: StreamingVae) -> TiledVae:
    """Return the same network, sharing its weights, to be used in tiles."""
    return TiledVae(vae.network).to(vae.mean_C)


def halves(length: int) -> list[slice]:
    """Return the two parts of a side of so many latents, equally long, sharing `OVERLAP_LATENTS`.

    Raises ValueError when the side is odd or too short for that.
    """
    if length % 2 or length < 3 * OVERLAP_LATENTS:
        raise ValueError(f"a side of {length} latents cannot be cut in two that share {OVERLAP_LATENTS}")
    size = (length + OVERLAP_LATENTS) // 2
    return [slice(0, size), slice(length - size, length)]


def _first_then_rest(run: _Part, video: Tensor, cache: VaeCache | None) -> tuple[Tensor, VaeCache]:
    """Run a piece of a stream; its first frame is a call of its own."""
    if cache is not None:
        return run(video, cache)
    first, cache = run(video[:, :, :1], None)
    if video.shape[2] == 1:
        return first, cache
    rest, cache = run(video[:, :, 1:], cache)
    return torch.cat([first, rest], dim=2), cache


def _causal(conv: nn.Module, x: Tensor, slots: list[Tensor | None], index: list[int]) -> Tensor:
    """Run a causal convolution with its slot of the cache, as the blocks around it do theirs."""
    history = slots[index[0]]
    output: Tensor = conv(x, history)
    seen = x if history is None else torch.cat([history, x], dim=2)
    slots[index[0]] = seen[:, :, -2:].clone()
    index[0] += 1
    return output


def _slots(cache: VaeCache | None, length: int) -> list[Tensor | None]:
    return [None] * length if cache is None else list(cache)


def _fade(span: slice, length: int, unit: int, like: Tensor) -> Tensor:
    """Return the weight of each row (or column) of a tile: 1, but rising or falling where another tile is."""
    fade = like.new_ones((span.stop - span.start) * unit)
    overlap = OVERLAP_LATENTS * unit
    distance = (
        torch.arange(overlap, device=like.device, dtype=torch.float32) + (1 - overlap) / 2
    )  # from the middle
    rising = (distance / (_FADE_LATENTS * unit) + 0.5).clamp(0, 1)
    if span.start > 0:
        fade[:overlap] = rising
    if span.stop < length:
        fade[-overlap:] = rising.flip(0)
    return fade


def _scaled(span: slice, unit: int) -> slice:
    return slice(span.start * unit, span.stop * unit)
