"""One video as several ranks make it together, in stretches, with what the operator wishes meanwhile.

A *stretch* is made in one size with one set of caches. All ranks go through the same stretches: before each they agree
on its plan, knowing how much memory every rank has, and after each the first rank says what comes next. The stream of
blocks itself ends a stretch (`gate.Gate`), so every rank has done all of its work by then.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from PIL import Image
from torch import Tensor

from liveavatar.conditioning.audio_file import stream_16k
from liveavatar.conditioning.image import prepare_picture
from liveavatar.conditioning.reference import SinkLatents
from liveavatar.core.events import Adjust
from liveavatar.core.memory import gb_text
from liveavatar.core.note import Note
from liveavatar.core.plan import ChangeCause, ExecutionPlan, PlanChange
from liveavatar.core.request import ValidatedRequest
from liveavatar.engines.s2v.adaptive import REMEDY, Made, backdrop_of, may_break_off, stays
from liveavatar.engines.s2v.gate import Gate, layout_for, why_not
from liveavatar.engines.s2v.history import History
from liveavatar.engines.s2v.memory import give_back, with_margin
from liveavatar.engines.s2v.meter import Meter
from liveavatar.engines.s2v.parts import RankParts, encode_prompt
from liveavatar.engines.s2v.rank_setup import Rank
from liveavatar.engines.s2v.rank_video import clean_blocks
from liveavatar.engines.s2v.video import sink_of_past, speech_blocks
from liveavatar.models.s2v import TokenGrid
from liveavatar.pipeline.decode import PICTURES_PER_BLOCK, WARM_UP_LATENTS, decode_blocks
from liveavatar.pipeline.delivery import Pictures, pictures_on_host
from liveavatar.pipeline.message import BlockMessage
from liveavatar.pipeline.randomness import ContinuedRandomness, SeededRandomness
from liveavatar.planning import ladder
from liveavatar.planning.ladder import describe
from liveavatar.planning.model_spec import VideoSize
from liveavatar.planning.s2v_request import size_for_free_memory

_PIXELS_PER_LATENT = 8
Item = TypeVar("Item")


@dataclass(frozen=True)
class ShareDone:
    """This rank is done with a block that others go on with."""


class SpreadVideo:
    """Makes a rank's share of one video. `plan` is what is carried out now."""

    def __init__(
        self,
        rank: Rank,
        parts: RankParts,
        plan: ExecutionPlan,
        request: ValidatedRequest,
        *,
        num_blocks: int,
        history: History,
        available_bytes: Callable[[], int],
        take_wish: Callable[[], Adjust | None],
        should_stop: Callable[[], bool],
        meter: Meter,
    ) -> None:
        self.plan = plan
        self._own, self._parts, self._request, self._meter = rank, parts, request, meter
        self._num_blocks = num_blocks
        self._available_bytes, self._take_wish = available_bytes, take_wish
        with Image.open(request.image_path) as picture:
            self._picture_size = picture.size
        self._num_steps = plan.num_steps  # of the block before
        self._num_begun = 0  # blocks of all stretches before
        self._gate = Gate(
            num_steps=self._num_steps,
            picture_size=self._picture_size,
            take_wish=take_wish,
            should_stop=should_stop,
        )
        self._text: Tensor | None = None
        self._history = history
        self._to_tell: list[Made] = []
        self._is_changed = False

    @property
    def _rank(self) -> Rank:
        """Return this rank with the steps that it has in the present plan."""
        layout = self.plan.parallel
        assert layout is not None, "a plan for several ranks says how it is spread"
        return dataclasses.replace(self._own, plan=layout, place=layout.place(self._own.place.rank))

    @property
    def _size(self) -> VideoSize:
        return VideoSize(self.plan.width, self.plan.height)

    @torch.inference_mode()
    def make(self) -> Iterator[Made | ShareDone]:
        """Yield each block's 12 pictures in the size of `plan` on the rank that decodes, ShareDone on the others, and
        each change of plan on all. The blocks end early when the operator stopped the video.
        """
        self._agree_on_attention()
        if self._request.made_path is not None:
            made = torch.tensor(self._history.num_blocks) if self._own.place.decodes else None
            self._num_begun = self._gate.num_begun = int(self._own.share(made, self._rank.plan.decoder_rank))
        num_steps, size = self._num_steps, self._size
        while True:
            self._agree(num_steps, size)
            self._gate.begin_stretch(self._rank.plan, self._size, self._num_steps)
            yield from self._told()
            yield from self._stretch()
            yield from self._told()
            goes_on, self._num_begun, num_steps, *sides = self._what_comes_next()
            size = VideoSize(*sides)
            if not goes_on:
                return

    def _what_comes_next(self) -> list[int]:
        """Return on every rank what the first one says: whether the video goes on, from which block, and how."""
        verdict: Tensor | None = None
        if self._own.place.rank == 0:
            gate = self._gate
            is_over = gate.is_stopped or gate.num_begun == self._num_blocks
            size = gate.wished_size or self._size
            num_steps = gate.wished_steps or gate.num_steps
            verdict = torch.tensor([not is_over, gate.num_begun, num_steps, size.width, size.height])
        return [int(number) for number in self._own.share(verdict, 0)]

    # ------------------------------------------------------------------------------ a stretch

    def _stretch(self) -> Iterator[Made | ShareDone]:
        rank, plan = self._rank, self.plan
        text, sink = self._shared_text(), self._shared_sink()
        self._meter.note_resident(self._parts.kept_tensors)
        finished = clean_blocks(
            rank,
            self._parts.transformer,
            grid=TokenGrid(
                latent_height=plan.height // _PIXELS_PER_LATENT,
                latent_width=plan.width // _PIXELS_PER_LATENT,
            ),
            dtype=sink.motion.dtype,
            text=text,
            sink=sink,
            speech=self._speech(),
            randomness=ContinuedRandomness(SeededRandomness(self._request.seed), self._num_begun),
            admit=self._gate.admit,
            kv_precision=plan.kv_precision,
            host_caches=self._parts.host_caches if plan.offload.caches else None,
            goes_on=self._num_begun > 0,
            meter=self._meter,
        )
        if not rank.place.decodes:
            for _ in self._uncompiled_where_new(finished):
                yield ShareDone()
            return
        for pictures in self._uncompiled_where_new(self._pictures(finished, sink)):
            self._history.add(pictures)
            yield from self._told()
            yield pictures

    def _pictures(self, finished: Iterator[BlockMessage], sink: SinkLatents) -> Iterator[Pictures]:
        plan = self.plan
        blocks = decode_blocks(
            self._parts.vae_for(plan),
            sink.motion[:, :, -WARM_UP_LATENTS:] if self._num_begun else sink.motion,
            self._latents(finished),
            latents_per_decode=plan.latents_per_decode,
        )
        return pictures_on_host(self._meter.watch(blocks, "decoder working memory"))

    def _latents(self, finished: Iterator[BlockMessage]) -> Iterator[Tensor]:
        """Yield the latents; where the number of steps changed, prepare to tell of it."""
        first_block = self._num_begun
        for message in finished:
            while (
                wish := self._take_wish()
            ) is not None:  # taken up by the first rank; refusals are told here
                if wish.num_steps is not None and (note := why_not(self._rank.plan, wish.num_steps)):
                    self._to_tell.append(note)
            if message.num_steps != self._num_steps:
                before, self._num_steps = describe(self.plan, self._num_steps), message.num_steps
                block = first_block + message.block
                self._to_tell.append(self._change("asked", before, "You asked for it.", block=block))
            yield message.latents

    def _uncompiled_where_new(self, items: Iterator[Item]) -> Iterator[Item]:
        """Yield the items. A size that is new in a video would be compiled first, for minutes without a picture."""
        while True:
            with torch.compiler.set_stance("eager_on_recompile") if self._is_changed else nullcontext():
                item = next(items, None)
            if item is None:
                return
            yield item

    # ------------------------------------------------------------------------------ conditions

    def _speech(self) -> Iterable[Tensor]:
        """Return the features from this stretch's first block on, on the rank that hears."""
        if self._parts.audio_encoder is None:
            return ()
        return speech_blocks(
            self._parts.audio_encoder,
            stream_16k(Path(self._request.audio_path)),
            num_blocks=self._num_blocks,
            first_block=self._num_begun,
        )

    def _shared_text(self) -> Tensor:
        """Return the prompt's embedding [num_tokens, width]; one rank encodes it, once."""
        if self._text is None:
            if self._parts.prompts is not None:
                device = torch.device("cpu") if self.plan.offload.text_encoder else self._own.device
                self._text = encode_prompt(self._parts.prompts, self._request.prompt, device)
            self._text = self._own.share(self._text, self._rank.plan.source_rank)
        return self._text

    def _shared_sink(self) -> SinkLatents:
        """Return what the video is reminded of: the portrait, later its own pictures; one rank encodes them."""
        latents: Tensor | None = None
        if self._own.place.decodes:
            plan, vae = self.plan, self._parts.vae_for(self.plan)
            with Image.open(self._request.image_path) as picture:
                reference = prepare_picture(picture, plan.height, plan.width)
            past = self._history.past(backdrop_of(reference))
            sink = (
                sink_of_past(vae, past, plan.latents_per_decode)
                if past
                else self._parts.sinks.plain_sink(vae, reference, latents_per_call=plan.latents_per_decode)
            )
            latents = torch.cat([sink.reference, sink.motion], dim=2)
        latents = self._own.share(latents, self._rank.plan.decoder_rank)
        return SinkLatents(reference=latents[:, :, :1], motion=latents[:, :, 1:])

    # ------------------------------------------------------------------------------ agreement

    def _agree(self, num_steps: int, size: VideoSize) -> None:
        """Settle on the plan of the next stretch: what is wished, if every rank has room for it, or less."""
        give_back()
        available = self._own.gather(self._available_bytes())
        if (num_steps, size) != (self._num_steps, self._size):
            self._take_up(num_steps, size, available)
        before, needed, least = self.plan, 0, min(available)
        short = ladder.short_ranks(before, available)
        if short:
            rank = short[0]
            needed, least = ladder.needed_bytes(before, rank), available[rank]
            reason = (
                f"Graphics card {rank + 1} of {len(available)} needs {gb_text(needed)};"
                f" {gb_text(least)} are to be had."
            )
            self.plan = ladder.fit_ranks(
                before, self._picture_size, [with_margin(each) for each in available], self._skipped_rungs()
            )
        elif not before.budgets:
            fitting = size_for_free_memory(least, self._size, self._picture_size)
            if fitting == self._size:
                return
            reason = f"{gb_text(least)} of memory are to be had."
            if not self._request.pin_size:
                self.plan = dataclasses.replace(before, width=fitting.width, height=fitting.height)
        else:
            return
        if self.plan == before:
            self._to_tell.append(may_break_off(reason, needed, least))
        else:
            change = self._change("memory_taken", describe(before, self._num_steps), reason, remedy=REMEDY)
            self._to_tell.append(dataclasses.replace(change, needed_bytes=needed, available_bytes=least))

    def _take_up(self, num_steps: int, size: VideoSize, available: list[int]) -> None:
        """Change to what the operator wishes, where every rank has room for it."""
        layout = layout_for(self._rank.plan, num_steps)
        plan = dataclasses.replace(self.plan, width=size.width, height=size.height, parallel=layout)
        if short := ladder.short_ranks(plan, [with_margin(each) for each in available]):
            rank = short[0]
            needed, free = ladder.needed_bytes(plan, rank), with_margin(available[rank])
            text = (
                f"The video stays as it is: for {describe(plan, num_steps)}, graphics card {rank + 1} of"
                f" {len(available)} needs {gb_text(needed)}, and {gb_text(free)} are to be had."
            )
            self._to_tell.append(stays(text, describe(plan, num_steps), needed, free))
            return
        before = describe(self.plan, self._num_steps)
        self.plan, self._num_steps = plan, num_steps
        self._to_tell.append(self._change("asked", before, "You asked for it."))

    def _agree_on_attention(self) -> None:
        """Work in 16 bits everywhere where one rank cannot do it in 8."""
        cannot = self._parts.usable_kv(self.plan.kv_precision) != self.plan.kv_precision
        unable = [rank for rank, flag in enumerate(self._own.gather(int(cannot))) if flag]
        if unable:
            self.plan = dataclasses.replace(self.plan, kv_precision="bf16")
            text = f"Attention works in 16 bits instead of 8: graphics card {unable[0] + 1} cannot do it otherwise."
            self._to_tell.append(Note(code="attention_in_16_bits", text=text))

    def _skipped_rungs(self) -> list[ladder.Rung]:
        """Return what cannot be changed in a loaded engine, or must not be."""
        skipped: list[ladder.Rung] = [
            ladder.free_caches,
            ladder.keep_weights_in_8_bits,
            ladder.stream_weights,
        ]
        if self._request.pin_size:
            skipped.append(ladder.make_smaller)
        return skipped

    def _change(
        self, cause: ChangeCause, before: str, reason: str, *, remedy: str = "", block: int | None = None
    ) -> PlanChange:
        self._is_changed = True
        return PlanChange(
            first_frame=(self._num_begun if block is None else block) * PICTURES_PER_BLOCK,
            cause=cause,
            before=before,
            after=describe(self.plan, self._num_steps),
            reason=reason,
            remedy=remedy,
        )

    def _told(self) -> Iterator[PlanChange | Note]:
        while self._to_tell:
            yield self._to_tell.pop(0)  # type: ignore[misc]
