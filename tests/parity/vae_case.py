"""Encoded and decoded video, whole and in pieces, against recorded ones."""

from __future__ import annotations

import torch

from liveavatar.models.vae import VaeCache, build_vae
from tests.parity.golden import GoldenCase, relative_error

KINDS: tuple[str, ...] = ("vae",)


def run_case(case: GoldenCase) -> dict[str, float]:
    """Return the error of latents and frames; several latents per call must not change them."""
    vae = build_vae(case.weights, device="cpu", dtype=torch.float32)
    video, latents = case.io["video"][None], case.io["decode.z"][None]
    errors = {
        "encode": relative_error(vae.encode(video)[0], case.io["encode.latent"]),
        "encode at once": relative_error(vae.encode_next(video, None)[0][0], case.io["encode.latent"]),
        "encode one frame": relative_error(
            vae.encode(video[:, :, :1])[0], case.io["encode.single_frame_latent"]
        ),
        "decode": relative_error(vae.decode(latents)[0], case.io["decode.video"]),
        "decode by three": relative_error(
            vae.decode(latents, latents_per_call=3)[0], case.io["decode.video"]
        ),
    }
    cache: VaeCache | None = None
    start = 0
    for index, num_latents in enumerate(case.config["chunks"]):
        frames, cache = vae.decode_next(latents[:, :, start : start + num_latents], cache)
        errors[f"stream_decode.chunk{index}"] = relative_error(
            frames[0], case.io[f"stream_decode.chunk{index}"]
        )
        start += num_latents
    return errors
