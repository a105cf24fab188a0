"""Which size and which plan: the largest size that is fast enough, made by the fastest plan that fits."""

from __future__ import annotations

import dataclasses
import math
import re
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

from liveavatar.core.area_sizes import size_for_area
from liveavatar.core.errors import Diagnosis, InputRejected
from liveavatar.core.hardware import Machine
from liveavatar.core.note import Note
from liveavatar.core.plan import ExecutionPlan
from liveavatar.core.request import AUTO
from liveavatar.core.sizes import SIZES, TIERS
from liveavatar.planning.calibration import NOTHING_MEASURED, Calibration
from liveavatar.planning.candidates import Candidate, candidates, reaches, rejections_by_rule
from liveavatar.planning.model_spec import VideoSize
from liveavatar.planning.plan_notes import plan_notes, text_rank
from liveavatar.planning.wishes import ANYTHING, Wishes

REAL_TIME_FPS = 25
ANY_SPEED = 1e-6  # pictures per second; it fits, however slow it is
# An automatic size is made at least this fast: a minute of video in five minutes.
DEFAULT_MIN_FPS = 5.0
WIDESCREEN = (1920, 1080)

# The model's own sizes and one between the two smallest; automatic choice goes through these areas.
_MODEL_SIZES = ("1280*720", "1024*704", "832*480", "720*400", "704*384", "688*368", "576*320", "384*256")
AUTO_AREAS = tuple(math.prod(map(int, name.split("*"))) for name in _MODEL_SIZES)
_PICTURE_SCALE = 4  # a size without a picture stands for a large picture of that shape


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What would run, what else could, what could not, and why."""

    machine: Machine
    wishes: Wishes
    min_fps: float
    size: VideoSize
    sizes: tuple[VideoSize, ...]  # all that could have been chosen, the largest first
    size_was_fixed: bool
    candidates: tuple[Candidate, ...]  # the best first, then those that do not fit
    ruled_out: tuple[tuple[str, str], ...]  # (plan, reason)
    decisions: tuple[Note, ...]
    calibration: Calibration = NOTHING_MEASURED

    @property
    def best(self) -> Candidate | None:
        """The plan that would run, None when nothing fits."""
        return next((candidate for candidate in self.candidates if candidate.fits), None)


def choose(
    machine: Machine,
    *,
    size: str = AUTO,
    may_shrink: bool = False,
    picture: tuple[int, int] | None = None,
    wishes: Wishes = ANYTHING,
    min_fps: float = DEFAULT_MIN_FPS,
    calibration: Calibration = NOTHING_MEASURED,
) -> Choice:
    """Return the choice for a picture of (width, height) pixels, widescreen when there is none.

    `may_shrink`: a size that does not fit becomes the largest that does. Raises InputRejected for a size that is
    not offered.
    """
    if size == AUTO:
        sizes = auto_sizes(picture or WIDESCREEN)
        fast_enough = largest_to_reach(machine, sizes, min_fps, wishes, calibration)
        video_size = fast_enough or sizes[-1]
        note: Note | None = _automatic_size(video_size, min_fps, is_reached=fast_enough is not None)
    else:
        video_size, note = fixed_size(size, picture)
        sizes = (video_size,)
        if may_shrink:
            smaller = smaller_sizes(video_size, picture or _large_picture(video_size))
            sizes = (video_size, *smaller)
            fitting = largest_to_reach(machine, sizes, ANY_SPEED, wishes, calibration)
            if fitting not in (None, video_size):
                note = Note(
                    code="largest_that_fits",
                    text=f"{video_size} does not fit on {machine.describe()}; {fitting} is the largest that does.",
                    values={"asked": str(video_size), "cards": machine.describe(), "made": str(fitting)},
                )
            video_size = fitting or video_size
    return Choice(
        machine=machine,
        wishes=wishes,
        min_fps=min_fps,
        size=video_size,
        sizes=sizes,
        size_was_fixed=size != AUTO,
        candidates=tuple(candidates(machine, video_size, wishes, calibration)),
        ruled_out=tuple(rejections_by_rule(machine, wishes)),
        decisions=(note,) if note else (),
        calibration=calibration,
    )


def _automatic_size(size: VideoSize, min_fps: float, *, is_reached: bool) -> Note:
    if is_reached:
        text = f"{size} is the largest size that is made at {min_fps:g} pictures per second or more."
        return Note(code="largest_fast_enough", text=text, values={"size": str(size), "fps": f"{min_fps:g}"})
    text = f"No size is made at {min_fps:g} pictures per second; {size} is the smallest."
    return Note(code="none_fast_enough", text=text, values={"size": str(size), "fps": f"{min_fps:g}"})


def largest_to_reach(
    machine: Machine,
    sizes: Sequence[VideoSize],
    min_fps: float,
    wishes: Wishes,
    calibration: Calibration,
) -> VideoSize | None:
    """Return the first of `sizes`, the largest first, that some plan makes at `min_fps` or more."""
    # Where a size is made fast enough, smaller ones are too.
    first = bisect_left(sizes, True, key=lambda size: reaches(machine, size, min_fps, wishes, calibration))
    return sizes[first] if first < len(sizes) else None


def auto_sizes(picture: tuple[int, int]) -> tuple[VideoSize, ...]:
    """Return the sizes for a picture of (width, height), the largest first."""
    return tuple(dict.fromkeys(size_of_area(picture, area) for area in AUTO_AREAS))


def smaller_sizes(size: VideoSize, picture: tuple[int, int]) -> tuple[VideoSize, ...]:
    """Return the automatic sizes for a picture of (width, height) that are smaller than `size`, largest first."""
    return tuple(each for each in auto_sizes(picture) if each.pixels < size.pixels)


def fixed_size(text: str, picture: tuple[int, int] | None = None) -> tuple[VideoSize, Note | None]:
    """Return the size the model makes of "720*400", and a note when that differs. Raises InputRejected."""
    match = re.fullmatch(r"\s*(\d{1,5})\s*[*xX×]\s*(\d{1,5})\s*", text)
    asked = (int(match[1]), int(match[2])) if match else (0, 0)
    offered = {_parse(name) for name in (*SIZES, *_MODEL_SIZES)}
    if asked not in offered and asked[::-1] not in offered:
        names = ", ".join(dict.fromkeys((*_MODEL_SIZES, *SIZES)))
        raise InputRejected(
            Diagnosis(
                code="unknown_size",
                title=f"The picture size “{text}” is not offered.",
                cause="The model makes sizes near those it was trained on.",
                remedy=f"Choose auto or one of {names}, upright or across.",
                facts={"size": text, "sizes": names},
            )
        )
    shape = picture or (asked[0] * _PICTURE_SCALE, asked[1] * _PICTURE_SCALE)
    size = size_of_area(shape, asked[0] * asked[1])
    if (size.width, size.height) == asked:
        return size, None
    text = f"{asked[0]}*{asked[1]} becomes {size}: the model's sides are multiples of 64."
    return size, Note(
        code="sides_of_64", text=text, values={"asked": f"{asked[0]}*{asked[1]}", "made": str(size)}
    )


def execution_plan(choice: Choice) -> ExecutionPlan:
    """Return the plan the engine carries out. Raises InputRejected when nothing fits."""
    best = choice.best
    if best is None:
        reasons = [candidate.details.reason for candidate in choice.candidates[:1]]
        reasons += [reason for _, reason in reversed(choice.ruled_out)]
        fixed, smaller = _precision_in_the_way(choice), _smaller_that_fits(choice)
        raise InputRejected(
            Diagnosis(
                code="nothing_fits",
                title=f"{choice.size} does not fit on {choice.machine.describe()}.",
                cause=reasons[0] if choice.machine.gpus and reasons else "There is no graphics card.",
                remedy=_what_would_fit(fixed, smaller),
                facts={
                    "size": str(choice.size),
                    "cards": choice.machine.describe() if choice.machine.gpus else "",
                    "fixed_precision": fixed,
                    "smaller": smaller,
                },
            )
        )
    configuration = best.configuration
    return ExecutionPlan(
        engine="s2v",
        width=choice.size.width,
        height=choice.size.height,
        decisions=choice.decisions + plan_notes(best),
        parallel=configuration.parallel,
        precision=configuration.precision,
        kv_precision=configuration.kv_precision,
        offload=dataclasses.replace(configuration.offload, text_encoder=text_rank(best) is None),
        latents_per_decode=configuration.latents_per_decode,
        tiled_vae=configuration.tiled_vae,
        budgets=best.details.budgets,
        memory_factors=tuple(sorted(best.evaluator.memory.factors.items())),
        block_s=best.block_seconds,
    )


def _precision_in_the_way(choice: Choice) -> str:
    """Return the precisions that the operator fixed, where the size fits without them; else nothing."""
    wishes = choice.wishes
    left_open = dataclasses.replace(wishes, precision=None, kv_precision=None)
    if left_open == wishes or not _fits(choice, choice.size, left_open):
        return ""
    return ", ".join(precision for precision in (wishes.precision, wishes.kv_precision) if precision)


def _smaller_that_fits(choice: Choice) -> str:
    """Return the largest of the offered sizes that is smaller and fits, or nothing."""
    picture = _large_picture(choice.size)
    for tier in reversed(TIERS):
        name = "*".join(map(str, tier.landscape))
        size, _ = fixed_size(name, picture)
        if size.pixels < choice.size.pixels and _fits(choice, size, choice.wishes):
            return name
    return ""


def _fits(choice: Choice, size: VideoSize, wishes: Wishes) -> bool:
    return reaches(choice.machine, size, ANY_SPEED, wishes, choice.calibration)


def _what_would_fit(fixed_precision: str, smaller: str) -> str:
    """Return what to do when nothing fits; only what was found to fit is named."""
    if fixed_precision:
        return "Leave the precision of weights and caches open, or choose the engine portrait."
    if smaller:
        return f"Choose the size {smaller}, or the engine portrait."
    return "Choose the engine portrait."


def _large_picture(size: VideoSize) -> tuple[int, int]:
    return size.width * _PICTURE_SCALE, size.height * _PICTURE_SCALE


def size_of_area(picture: tuple[int, int], area: int) -> VideoSize:
    """Return the size the model makes for a picture of (width, height), of at most `area` pixels."""
    width, height = picture
    video_height, video_width = size_for_area(height, width, area)
    return VideoSize(video_width, video_height)


def _parse(name: str) -> tuple[int, int]:
    width, height = name.split("*")
    return int(width), int(height)
