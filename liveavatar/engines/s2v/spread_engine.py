"""One rank of an engine that several ranks make up: it loads what its role needs and does its share of each video.

Every rank runs `generate` for every video. The rank that decodes yields the events of the job; on the others the
iterator yields nothing and ends when the job is over. Only rank 0 asks whether to stop.
"""

from __future__ import annotations

import dataclasses
import logging
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from liveavatar.conditioning.audio import AudioEncoder, load_audio_encoder
from liveavatar.conditioning.audio_file import stream_16k
from liveavatar.conditioning.image import prepare_picture
from liveavatar.conditioning.prompt_cache import PromptCache
from liveavatar.conditioning.reference import PLAIN_MOTION_FRAMES, SinkLatents, plain_sink
from liveavatar.conditioning.text import PromptEncoder
from liveavatar.core.engine import OnLoadStage
from liveavatar.core.events import Cancelled, Chunk, EngineEvent, Finished, Progress, Telemetry
from liveavatar.core.parallel import KvPrecision
from liveavatar.core.plan import ExecutionPlan
from liveavatar.core.request import ValidatedRequest
from liveavatar.engines.s2v.compiling import compile_parts, compiled_or_not
from liveavatar.engines.s2v.meter import Meter
from liveavatar.engines.s2v.parts import checked_layout, plan_device, read_transformer
from liveavatar.engines.s2v.rank_setup import ModelShare, Rank, join, use_own_card
from liveavatar.engines.s2v.rank_video import clean_blocks
from liveavatar.engines.s2v.video import speech_blocks
from liveavatar.engines.s2v.video_file import VideoFile, silent_request
from liveavatar.models.s2v import S2VTransformer, TokenGrid
from liveavatar.models.s2v.config import LATENT_CHANNELS
from liveavatar.models.s2v.int8_attention import probe
from liveavatar.models.tiled_vae import tiled
from liveavatar.models.vae import FRAMES_PER_LATENT, StreamingVae, load_vae
from liveavatar.parallel.cache_offload import HostCaches
from liveavatar.pipeline.decode import PICTURES_PER_BLOCK, decode_blocks
from liveavatar.pipeline.delivery import Pictures, pictures_on_host
from liveavatar.pipeline.randomness import SeededRandomness

log = logging.getLogger(__name__)

_PIXELS_PER_LATENT = 8
_WARM_UP_BLOCKS_ON_CARD, _WARM_UP_BLOCKS = 5, 1


@dataclass(frozen=True, kw_only=True)
class RankParts:
    """What a rank's role needs; None for what others do."""

    transformer: S2VTransformer | None
    vae: StreamingVae | None
    audio_encoder: AudioEncoder | None
    prompts: PromptEncoder | None
    text_shape: tuple[int, int]  # tokens, width
    dtype: torch.dtype

    @cached_property
    def host_caches(self) -> HostCaches | None:
        """What allocates caches in host memory, and keeps it from one video to the next."""
        return HostCaches(self.transformer) if self.transformer is not None else None

    def usable_kv(self, wanted: KvPrecision) -> KvPrecision:
        """Return the precision of keys and values: 16 bits in place of an 8-bit attention that cannot serve."""
        model = self.transformer
        if wanted != "int8" or model is None:
            return wanted
        why_not = probe.why_not(device=model.device, dtype=model.compute_dtype, head_dim=model.head_dim)
        if why_not:
            log.warning("attention works in 16 bits instead of 8: %s", why_not)
        return "bf16" if why_not else wanted

    @property
    def kept_tensors(self) -> dict[str, list[Tensor]]:
        """Return what stays in memory for every video, by the names of the forecast."""
        kept = {}
        if self.transformer is not None:
            kept["weights"] = [*self.transformer.parameters(), *self.transformer.buffers()]
        if self.vae is not None:
            kept["decoder weights"] = [*self.vae.parameters(), *self.vae.buffers()]
        if self.audio_encoder is not None:
            kept["speech encoder"] = self.audio_encoder.weights
        return kept


def load_rank_parts(plan: ExecutionPlan, rank: Rank) -> RankParts:
    """Load what the rank needs of the plan's checkpoint. Raises EngineFailed with what is missing or damaged."""
    assert plan.model is not None, "a plan for this engine names its files"
    place, device = rank.place, rank.device
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    layout = checked_layout(plan.model)
    config = layout.read_transformer_config()
    transformer: S2VTransformer | None = None
    if place.stage is not None:
        share = ModelShare(rank, keep_on_host=plan.offload.sharded_weights)
        transformer = read_transformer(layout, plan, device, dtype, share)
    vae: StreamingVae | None = None
    if place.decodes:
        vae = load_vae(layout.vae, device=device, dtype=dtype)
        vae = vae if plan.vae_tiles == 1 else tiled(vae, plan.vae_tiles)
    prompts: PromptEncoder | None = None
    if place.is_source:
        cache = PromptCache(Path(plan.model.cache) / "prompts")
        prompts = PromptEncoder(layout, cache=cache, max_tokens=config["text_len"])
    return RankParts(
        transformer=transformer,
        vae=vae,
        audio_encoder=load_audio_encoder(layout, device=device, dtype=dtype) if place.is_source else None,
        prompts=prompts,
        text_shape=(config["text_len"], config["text_dim"]),
        dtype=dtype,
    )


class SpreadEngine:
    """A rank of the engine, ready for videos once it exists."""

    def __init__(self, plan: ExecutionPlan, on_stage: OnLoadStage) -> None:
        """Meet the other ranks, load, and make a short silent video together."""
        assert plan.parallel is not None, "a plan for several ranks says how it is spread"
        self._rank = join(plan.parallel, use_own_card(plan_device(plan)))
        self._parts = load_rank_parts(plan, self._rank)
        self._meter = Meter(self._rank.device)
        on_card = self._rank.device.type == "cuda"
        if on_card:
            self._compile(plan)
        on_stage("compiling" if on_card else "warming")
        with tempfile.TemporaryDirectory(prefix="liveavatar-") as folder:
            num_blocks = _WARM_UP_BLOCKS_ON_CARD if on_card else _WARM_UP_BLOCKS
            request = silent_request(Path(folder), num_blocks * PICTURES_PER_BLOCK)
            for _ in self.generate(request, plan, should_stop=lambda: False):
                pass

    def _compile(self, plan: ExecutionPlan) -> None:
        """Have the networks compiled where that is sure to work: a rank that gives up would leave the others waiting.

        Layers that talk to other cards in between are left as they are.
        """
        ones = torch.ones(64, device=self._rank.device)
        _, why_not = compiled_or_not(lambda: torch.compile(torch.sin)(ones))
        if why_not:
            return
        assert plan.parallel is not None, "a plan for several ranks says how it is spread"
        talks_between = plan.parallel.tensor > 1 or plan.parallel.weights_sharded
        compile_parts(
            None if talks_between else self._parts.transformer,
            self._parts.vae,
            Path(plan.model.cache) / "compiled" if plan.model else None,
        )

    def report(self) -> Telemetry:
        """Return what this rank measured while it was loaded."""
        self._meter.begin_video()
        self._meter.note_resident(self._parts.kept_tensors)
        return self._meter.report(is_block=False)

    @torch.inference_mode()
    def generate(
        self, request: ValidatedRequest, plan: ExecutionPlan, *, should_stop: Callable[[], bool]
    ) -> Iterator[EngineEvent]:
        """Do this rank's share of a video; yield its events on the rank that decodes.

        The steps of the stages may differ from those it was loaded for.
        """
        assert plan.parallel is not None, "a plan for several ranks says how it is spread"
        rank = dataclasses.replace(
            self._rank, plan=plan.parallel, place=plan.parallel.place(self._rank.place.rank)
        )
        self._meter.begin_video()
        with VideoFile(request) as file:
            num_blocks = -(-file.num_frames // PICTURES_PER_BLOCK)
            if not rank.place.decodes:
                conditions = self._conditions(rank, request, plan)
                for _ in self._latents(rank, request, plan, num_blocks, conditions, should_stop):
                    raise AssertionError("only the rank that decodes is given finished blocks")
                return
            yield _progress(request, "preparing", file)
            conditions = self._conditions(rank, request, plan)
            yield _progress(request, "preparing", file)
            latents = self._latents(rank, request, plan, num_blocks, conditions, should_stop)
            for pictures in self._pictures(conditions[1], latents, plan):
                data = file.add(pictures, plan)
                yield _progress(request, "generating", file)
                yield self._meter.report(is_block=True)
                if data:
                    yield Chunk(job_id=request.job_id, data=data, frames_done=file.num_done)
            yield Chunk(job_id=request.job_id, data=file.finish(), frames_done=file.num_done)
            if file.num_done == file.num_frames:
                yield Finished(job_id=request.job_id, num_frames=file.num_frames)
            else:
                yield Cancelled(job_id=request.job_id)

    def close(self) -> None:
        """End the connections to the other ranks."""
        self._rank.leave()

    def _conditions(
        self, rank: Rank, request: ValidatedRequest, plan: ExecutionPlan
    ) -> tuple[Tensor, SinkLatents]:
        """Return the prompt's embedding and the sink on every rank; each is encoded by one."""
        parts, parallel = self._parts, rank.plan
        text = torch.zeros(parts.text_shape, dtype=parts.dtype)
        if parts.prompts is not None:
            parts.prompts.move_to(torch.device("cpu") if plan.offload.text_encoder else rank.device)
            embedding = parts.prompts.encode(request.prompt)
            text[: len(embedding)] = embedding
            if not plan.offload.text_encoder:
                parts.prompts.release()
        text = rank.share(text, parallel.source_rank)
        rows, columns = plan.height // _PIXELS_PER_LATENT, plan.width // _PIXELS_PER_LATENT
        num_latents = 1 + (PLAIN_MOTION_FRAMES - 1) // FRAMES_PER_LATENT
        motion = torch.empty(1, LATENT_CHANNELS, num_latents, rows, columns, dtype=parts.dtype)
        if parts.vae is not None:
            with Image.open(request.image_path) as picture:
                reference = prepare_picture(picture, plan.height, plan.width)
            motion = plain_sink(parts.vae, reference, latents_per_call=plan.latents_per_decode).motion
        motion = rank.share(motion, parallel.decoder_rank)
        return text, SinkLatents(reference=motion[:, :, :1], motion=motion)

    def _latents(
        self,
        rank: Rank,
        request: ValidatedRequest,
        plan: ExecutionPlan,
        num_blocks: int,
        conditions: tuple[Tensor, SinkLatents],
        should_stop: Callable[[], bool],
    ) -> Iterator[Tensor]:
        speech: Iterable[Tensor] = ()
        if self._parts.audio_encoder is not None:
            sound = stream_16k(Path(request.audio_path))
            speech = speech_blocks(self._parts.audio_encoder, sound, num_blocks=num_blocks)
        text, sink = conditions
        return clean_blocks(
            rank,
            self._parts.transformer,
            grid=TokenGrid(
                latent_height=plan.height // _PIXELS_PER_LATENT,
                latent_width=plan.width // _PIXELS_PER_LATENT,
            ),
            dtype=self._parts.dtype,
            text=text,
            sink=sink,
            speech=speech,
            randomness=SeededRandomness(request.seed),
            should_stop=should_stop,
            kv_precision=self._parts.usable_kv(plan.kv_precision),
            host_caches=self._parts.host_caches if plan.offload.caches else None,
        )

    def _pictures(
        self, sink: SinkLatents, latents: Iterator[Tensor], plan: ExecutionPlan
    ) -> Iterator[Pictures]:
        assert self._parts.vae is not None, "the rank that decodes has the decoder"
        blocks = decode_blocks(
            self._parts.vae, sink.motion, latents, latents_per_decode=plan.latents_per_decode
        )
        return pictures_on_host(blocks)


def _progress(request: ValidatedRequest, stage: str, file: VideoFile) -> Progress:
    return Progress(
        job_id=request.job_id,
        stage=stage,
        frames_done=file.num_done,
        num_frames=file.num_frames,
    )
