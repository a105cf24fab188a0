"""The plan for one request to the s2v engine: what `choice` finds, within what the engine can carry out today."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from liveavatar.core.errors import Diagnosis, InputRejected
from liveavatar.core.hardware import GpuSpec, Machine
from liveavatar.core.memory import GIB, gb_text
from liveavatar.core.note import Note
from liveavatar.core.parallel import KvPrecision, Offload, ParallelPlan, Precision
from liveavatar.core.plan import ExecutionPlan, ModelFiles
from liveavatar.core.request import AUTO
from liveavatar.core.sizes import STANDARD
from liveavatar.planning.advice import why_smaller
from liveavatar.planning.calibration import NOTHING_MEASURED, Calibration
from liveavatar.planning.candidates import Candidate
from liveavatar.planning.choice import Choice, choose, execution_plan, fixed_size, size_of_area
from liveavatar.planning.model_spec import MAX_STEPS, TRANSFORMER_PARAMETERS, VideoSize
from liveavatar.planning.placement import Slots
from liveavatar.planning.wishes import ENGINE, Abilities, Wishes

# The published model has 16 billion; on a processor one second of its video takes a quarter of an hour.
LARGEST_FOR_PROCESSOR = 1_000_000_000

# For models whose memory is not forecast: with less than so much memory free, pictures of at most so many pixels.
AREA_BY_FREE_MEMORY = ((8 * GIB, 384 * 256), (12 * GIB, 688 * 368))

_HOPPER = 9  # major compute capability of the cards that 8-bit attention is made for
_NO_INT8_ATTENTION = Note(
    code="no_int8_attention",
    text="8-bit attention is made for Hopper cards (H100, H200) alone; 16 bits are used.",
)
_NO_8_BIT_WEIGHTS = Note(
    code="no_8_bit_weights", text="8-bit weights need cards that multiply in 8 bits; 16 bits are used."
)
_ON_PROCESSOR = Note(
    code="on_processor", text="There is no graphics card: the s2v engine runs on the processor."
)

_NEARLY = 0.8  # as fast as the best
_SAME_MODEL = 0.01  # of the parameters; the forecast is computed for one model


@dataclass(frozen=True, kw_only=True)
class S2vSetup:
    """What this machine has for the s2v engine. Neither files nor a problem: no checkpoint was named."""

    files: ModelFiles | None = None  # present and whole
    problem: Diagnosis | None = None  # why the named files cannot be used
    num_parameters: int = 0  # of the transformer
    gpus: tuple[GpuSpec, ...] = ()
    host_bytes: int | None = None  # all of the machine's memory
    host_free_bytes: int | None = None
    precision: Precision | None = None  # what the operator fixed, of weights
    kv_precision: KvPrecision | None = None  # and of caches
    avoided: frozenset[ParallelPlan] = frozenset()  # layouts that failed again and again; none of one card
    slots: Slots = ()  # of ranks on each machine; none: one for each card, all in one machine
    calibration: Calibration = NOTHING_MEASURED  # what videos measured here
    loaded: ExecutionPlan | None = None  # what the engine is ready for


def plan_s2v(
    setup: S2vSetup,
    *,
    size: str,
    picture: tuple[int, int],
    num_steps: int | None = None,
    pin_size: bool = False,
) -> ExecutionPlan:
    """Return the plan for a picture of (width, height) pixels.

    A size that does not fit becomes the largest that does, unless it is pinned. Raises InputRejected with what is
    missing: the checkpoint, the card, or memory.
    """
    if setup.problem is not None:
        raise InputRejected(setup.problem)
    files = setup.files
    if files is None:
        raise InputRejected(_NOT_SET_UP)
    num_steps = num_steps or MAX_STEPS
    if not setup.gpus and setup.num_parameters > LARGEST_FOR_PROCESSOR:
        raise InputRejected(_NO_CARD)
    setup, refused = _without_what_cards_cannot(setup)
    if not setup.gpus or not is_forecast(setup.num_parameters):
        plan = _without_forecast(setup, files, size, picture, num_steps, pin_size)
        return dataclasses.replace(plan, decisions=plan.decisions + refused)
    choice = choose(
        Machine(gpus=setup.gpus, host_bytes=setup.host_bytes),
        size=size,
        may_shrink=not pin_size,
        picture=picture,
        wishes=Wishes(
            num_steps=num_steps,
            precision=setup.precision,
            kv_precision=setup.kv_precision,
            abilities=_abilities(setup.avoided),
            slots=setup.slots,
        ),
        calibration=setup.calibration,
    )
    if choice.best is None and setup.avoided:  # better what may fail again than nothing
        return plan_s2v(
            dataclasses.replace(setup, avoided=frozenset()),
            size=size,
            picture=picture,
            num_steps=num_steps,
            pin_size=pin_size,
        )
    plan = execution_plan(_keeping_loaded(choice, setup))
    lost = tuple(map(_avoided_note, sorted(setup.avoided, key=ParallelPlan.describe)))
    decisions = plan.decisions + why_smaller(choice) + refused + lost
    return _with_operators_choice(setup, dataclasses.replace(plan, model=files, decisions=decisions))


def _avoided_note(layout: ParallelPlan) -> Note:
    text = f"The layout “{layout.describe()}” failed again and again: fewer cards are used."
    return Note(code="layout_avoided", text=text, values={"num_cards": layout.world_size})


def _without_what_cards_cannot(setup: S2vSetup) -> tuple[S2vSetup, tuple[Note, ...]]:
    """Return the setup without wishes that the cards do not know, and a note for each."""
    refused: tuple[Note, ...] = ()
    if setup.precision == "fp8" and not (setup.gpus and all(gpu.fp8_flops for gpu in setup.gpus)):
        setup, refused = dataclasses.replace(setup, precision=None), (_NO_8_BIT_WEIGHTS,)
    is_hopper = [gpu.compute_capability[0] == _HOPPER for gpu in setup.gpus]
    if setup.kv_precision == "int8" and not (is_hopper and all(is_hopper)):
        setup, refused = dataclasses.replace(setup, kv_precision=None), (*refused, _NO_INT8_ATTENTION)
    return setup, refused


def _with_operators_choice(setup: S2vSetup, plan: ExecutionPlan) -> ExecutionPlan:
    return dataclasses.replace(
        plan,
        fixes_precision=setup.precision is not None,
        fixes_kv_precision=setup.kv_precision is not None,
    )


def _keeping_loaded(choice: Choice, setup: S2vSetup) -> Choice:
    """Return the choice with the plan first that the engine is loaded for, where that is nearly as fast as the best.

    Another layout, or other weights, would first have to be loaded, which takes longer than most videos.
    """
    best, loaded = choice.best, setup.loaded
    if best is None or loaded is None:
        return choice
    for candidate in choice.candidates:
        wanted = candidate.configuration
        plan = dataclasses.replace(
            loaded,
            model=setup.files,
            parallel=wanted.parallel,
            precision=wanted.precision,
            offload=wanted.offload,
            tiled_vae=wanted.tiled_vae,
        )
        if candidate.fits and candidate.fps >= _NEARLY * best.fps and plan.same_engine(loaded):
            return choice if candidate is best else _with_first(choice, candidate)
    return choice


def _with_first(choice: Choice, kept: Candidate) -> Choice:
    best = choice.best
    assert best is not None, "something fits: what is kept"
    note = Note(
        code="stays_loaded",
        text=f"The engine stays loaded as it is: “{best.configuration.describe()}” would make"
        f" {best.fps:.1f} instead of {kept.fps:.1f} pictures per second.",
        values={"best_fps": f"{best.fps:.1f}", "fps": f"{kept.fps:.1f}"},
    )
    return dataclasses.replace(
        choice, candidates=(kept, *choice.candidates), decisions=(*choice.decisions, note)
    )


def _abilities(avoided: frozenset[ParallelPlan]) -> Abilities:
    """Return what to plan within. What failed on some cards is likely to fail in other layouts over as many."""
    limits = [layout.world_size - 1 for layout in avoided]
    return dataclasses.replace(ENGINE, max_ranks=min([ENGINE.max_ranks, *limits]))


def is_forecast(num_parameters: int) -> bool:
    """Whether a transformer of so many parameters is the one whose memory is forecast."""
    return abs(num_parameters - TRANSFORMER_PARAMETERS) <= _SAME_MODEL * TRANSFORMER_PARAMETERS


def size_for_free_memory(free_bytes: int, size: VideoSize, picture: tuple[int, int]) -> VideoSize:
    """Return the size for a model whose memory is not forecast: `size`, or less where little memory is free."""
    area = next((area for limit_bytes, area in AREA_BY_FREE_MEMORY if free_bytes < limit_bytes), None)
    return size if area is None or size.pixels <= area else size_of_area(picture, area)


def _enough_memory(size: VideoSize, picture: tuple[int, int]) -> int:
    """Return how much must be free for a size that less does not allow."""
    limits = sorted(limit_bytes for limit_bytes, _ in AREA_BY_FREE_MEMORY)
    return next(limit for limit in limits if size_for_free_memory(limit, size, picture) == size)


def _smaller_note(asked: VideoSize, made: VideoSize, free_bytes: int, needed_bytes: int) -> Note:
    return Note(
        code="smaller_for_memory",
        text=f"{made} is made instead of {asked}: {gb_text(free_bytes)} of memory are free;"
        f" it would take {gb_text(needed_bytes)}.",
        values={
            "made": str(made),
            "asked": str(asked),
            "free_bytes": free_bytes,
            "needed_bytes": needed_bytes,
        },
    )


def _without_forecast(
    setup: S2vSetup,
    files: ModelFiles,
    size: str,
    picture: tuple[int, int],
    num_steps: int,
    pin_size: bool,
) -> ExecutionPlan:
    asked = "*".join(map(str, STANDARD.landscape)) if size == AUTO else size
    video_size, note = fixed_size(asked, picture)
    decisions = [note] if note else []
    free = max((gpu.free_bytes for gpu in setup.gpus), default=setup.host_free_bytes)
    if free is not None and not pin_size:
        fitting = size_for_free_memory(free, video_size, picture)
        if fitting != video_size:
            decisions.append(_smaller_note(video_size, fitting, free, _enough_memory(video_size, picture)))
            video_size = fitting
    if not setup.gpus:
        decisions.append(_ON_PROCESSOR)
    plan = ExecutionPlan(
        engine="s2v",
        width=video_size.width,
        height=video_size.height,
        decisions=tuple(decisions),
        model=files,
        parallel=ParallelPlan(step_split=(num_steps,)),
        precision=setup.precision or "bf16",
        kv_precision=setup.kv_precision or "bf16",
        offload=Offload(text_encoder=True),
    )
    return _with_operators_choice(setup, plan)


_NOT_SET_UP = Diagnosis(
    code="engine_unavailable",
    title="The s2v engine is not set up.",
    cause="No model checkpoint was named.",
    remedy="Name its folder under “More settings” or with --ckpt-dir (see docs/models.md), or choose another engine.",
)

_NO_CARD = Diagnosis(
    code="no_graphics_card",
    title="The s2v engine needs a graphics card.",
    cause="None was found, and on the processor a second of video would take about a quarter of an hour.",
    remedy="Choose another engine.",
)
