"""The block loop as one rank runs it: the same generators as on one device, joined to other ranks by links."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from liveavatar.core.parallel import ParallelPlan, RankPlace
from liveavatar.models.s2v.config import CLIP_BLOCKS
from liveavatar.pipeline.block_loop import Admit, admitted
from liveavatar.pipeline.layer_part import take_turns
from liveavatar.pipeline.links import Link
from liveavatar.pipeline.message import BlockMessage
from liveavatar.pipeline.schedule import steps_of_stage
from liveavatar.pipeline.wiring import Wire, WireKind, blocks_ahead

# What a rank does to the blocks: `denoise_blocks` with all but the messages given.
Denoise = Callable[[Iterable[BlockMessage]], Iterator[BlockMessage]]


@dataclass(frozen=True, kw_only=True)
class RankLinks:
    """The links that begin or end at a rank."""

    links: tuple[tuple[Wire, Link], ...]
    rank: int

    def incoming(self, *kinds: WireKind) -> Link | None:
        """Return the link that ends here; a rank has at most one of these kinds."""
        found = [link for wire, link in self.links if wire.kind in kinds and wire.receiver == self.rank]
        assert len(found) <= 1, f"{len(found)} links of {kinds} end at rank {self.rank}"
        return found[0] if found else None

    def outgoing(self, kind: WireKind) -> list[Link]:
        """Return the links that begin here."""
        return [link for wire, link in self.links if wire.kind == kind and wire.sender == self.rank]


def run_rank(
    plan: ParallelPlan,
    place: RankPlace,
    links: RankLinks,
    *,
    source: Iterable[BlockMessage],
    denoise: Denoise,
    admit: Admit,
    blocks_per_clip: int = CLIP_BLOCKS,
) -> Iterator[BlockMessage]:
    """Do a rank's share of one video; yield every block that this rank is done with: clean where it is decoded.

    `source` is used on the source rank, `denoise` on ranks with a part of the transformer, `admit` on rank 0.
    """
    if place.stage is None:
        yield from _feed_and_collect(source, links, num_ahead=blocks_ahead(plan))
        return
    stage = place.stage

    def steps(num_steps: int) -> range:
        return steps_of_stage(stage.steps, num_steps, plan.num_steps)

    inlet = links.incoming("feed", "copy", "blocks", "tokens")
    arriving = iter(source) if inlet is None else inlet.receive_all()
    work = arriving
    if place.rank == 0:
        work = _copy(admitted(arriving, admit), links.outgoing("copy"))
    if (back := links.incoming("back")) is not None:
        work = take_turns(
            work,
            back.receive_all(),
            num_parts=plan.layer_parts,
            visits=lambda num_steps: max(1, len(steps(num_steps))),
            blocks_per_clip=blocks_per_clip,
        )
    onward = links.outgoing("tokens") or links.outgoing("blocks")
    done = denoise(_pass_end_on(work, onward))
    yield from _send_on(place, steps, done, onward, links.outgoing("back"))
    if inlet is not None:
        for _ in arriving:  # after a stop: what the source had sent ahead
            pass


def _copy(messages: Iterator[BlockMessage], others: Sequence[Link]) -> Iterator[BlockMessage]:
    """Give the other ranks of the first tensor group what this one works on."""
    for message in messages:
        for link in others:
            link.send(message)
        yield message
    for link in others:
        link.send_end()
        link.flush()


def _pass_end_on(work: Iterator[BlockMessage], onward: Sequence[Link]) -> Iterator[BlockMessage]:
    """Tell the next rank that there is no more as soon as this one knows: whatever it had to send, it has sent.

    Ranks that gather weights together still need each other at that time.
    """
    yield from work
    for link in onward:
        link.send_end()


def _send_on(
    place: RankPlace,
    steps: Callable[[int], range],
    done: Iterator[BlockMessage],
    onward: Sequence[Link],
    back: Sequence[Link],
) -> Iterator[BlockMessage]:
    """Send what is done to where it goes next; yield it where this rank is not going to see it again."""
    for message in done:
        own_steps = steps(message.num_steps)
        if message.tokens is None and message.step in own_steps:
            back[0].send(message)
            continue
        if not place.decodes:
            for link in onward:
                link.send(message)
        if message.tokens is None or message.step == own_steps[-1]:
            yield message
    for link in (*onward, *back):
        link.flush()


def _feed_and_collect(
    source: Iterable[BlockMessage], links: RankLinks, *, num_ahead: int
) -> Iterator[BlockMessage]:
    """Send the first rank its blocks and yield the finished ones, so many ahead that no stage waits for the source."""
    feed, inlet = links.outgoing("feed")[0], links.incoming("blocks")
    assert inlet is not None, "the last stage sends to the decoder"
    source = iter(source)
    is_over = False

    def send_next() -> None:
        nonlocal is_over
        if is_over:
            return
        message = next(source, None)
        if message is None:
            feed.send_end()
            is_over = True
        else:
            feed.send(message)

    for _ in range(num_ahead):
        send_next()
    for message in inlet.receive_all():
        yield message
        send_next()
    if not is_over:
        feed.send_end()
    feed.flush()
