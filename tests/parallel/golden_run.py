"""A recorded run of the published multi-GPU pipeline, again on several ranks."""

from __future__ import annotations

from pathlib import Path

import torch

from liveavatar.conditioning.reference import plain_sink
from liveavatar.core.parallel import ParallelPlan
from liveavatar.engines.s2v.rank_setup import join
from liveavatar.engines.s2v.rank_video import clean_blocks
from liveavatar.models.s2v import S2VTransformer, TokenGrid
from liveavatar.pipeline.decode import decode_blocks
from tests.parity import end_to_end_case as end_to_end
from tests.parity.golden import load_case


def repeat(plan: ParallelPlan, manifest: Path) -> dict[str, float]:
    """Return how far latents and pictures are from the record, on the rank that decodes."""
    case = load_case(manifest)
    rank = join(plan, torch.device("cpu"), deadline_s=60)
    run = end_to_end.Recorded(case)
    model: S2VTransformer | None = None
    if rank.place.stage is not None:
        model = S2VTransformer(**case.config["model"]).eval()
        model.load_state_dict(end_to_end.load_weights(case, "dit_weights"), assign=True)
    height, width = (side // 8 for side in run.picture.shape[1:])
    with torch.inference_mode():
        sink = plain_sink(run.vae, run.picture)
        blocks = [
            message.latents
            for message in clean_blocks(
                rank,
                model,
                grid=TokenGrid(latent_height=height, latent_width=width),
                dtype=torch.float32,
                text=run.text,
                sink=sink,
                speech=run.block_speech() if rank.place.is_source else [],
                randomness=run,
                admit=lambda message: message,
                blocks_per_clip=run.blocks_per_clip,
            )
        ]
        if not rank.place.decodes:
            rank.leave()
            return {}
        pieces = list(decode_blocks(run.vae, sink.motion, blocks, num_skipped_pictures=3))
    rank.leave()
    return run.errors(blocks, torch.cat(pieces, dim=2)[0])
