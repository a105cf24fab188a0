"""The s2v engine on one graphics card, or on the processor when the model is small enough to try it there."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from liveavatar.core.errors import Diagnosis, InputRejected
from liveavatar.core.hardware import GpuSpec
from liveavatar.core.memory import MemoryBudget, gib_text
from liveavatar.core.parallel import Offload, ParallelPlan, Precision
from liveavatar.core.plan import ExecutionPlan, ModelFiles
from liveavatar.core.request import AUTO
from liveavatar.core.sizes import STANDARD, TIERS
from liveavatar.planning import memory_model
from liveavatar.planning.choice import fixed_size
from liveavatar.planning.memory_model import RankRole
from liveavatar.planning.model_spec import MAX_STEPS, VideoSize

# The published model has 16 billion; on a processor one second of its video takes a quarter of an hour.
LARGEST_FOR_PROCESSOR = 1_000_000_000

# (precision, latent frames per decoder call): the plainest first; each later form needs less memory.
_FORMS: tuple[tuple[Precision, int], ...] = (("bf16", 3), ("bf16", 1), ("fp8", 3), ("fp8", 1))


@dataclass(frozen=True, kw_only=True)
class S2vSetup:
    """What this machine has for the s2v engine. Neither files nor a problem: no checkpoint was named."""

    files: ModelFiles | None = None  # present and whole
    problem: Diagnosis | None = None  # why the named files cannot be used
    num_parameters: int = 0  # of the transformer
    gpus: tuple[GpuSpec, ...] = ()


def plan_single_card(setup: S2vSetup, *, size: str, picture: tuple[int, int]) -> ExecutionPlan:
    """Return the plan for a picture of (width, height) pixels.

    Raises InputRejected with what is missing: the checkpoint, the card, or memory.
    """
    if setup.problem is not None:
        raise InputRejected(setup.problem)
    if setup.files is None:
        raise InputRejected(_NOT_SET_UP)
    asked = "*".join(map(str, STANDARD.landscape)) if size == AUTO else size
    video_size, sentence = fixed_size(asked, picture)
    decisions = (sentence,) if sentence else ()
    if not setup.gpus:
        return _on_processor(setup, setup.files, video_size, decisions)
    return _on_card(max(setup.gpus, key=memory_model.available_bytes), setup.files, video_size, decisions)


def _on_processor(
    setup: S2vSetup, files: ModelFiles, size: VideoSize, decisions: tuple[str, ...]
) -> ExecutionPlan:
    if setup.num_parameters > LARGEST_FOR_PROCESSOR:
        raise InputRejected(_NO_CARD)
    return ExecutionPlan(
        engine="s2v",
        width=size.width,
        height=size.height,
        decisions=(*decisions, "There is no graphics card: the s2v engine runs on the processor."),
        model=files,
        offload=Offload(text_encoder=True),
    )


def _on_card(gpu: GpuSpec, files: ModelFiles, size: VideoSize, decisions: tuple[str, ...]) -> ExecutionPlan:
    forms = [form for form in _FORMS if form[0] == "bf16" or gpu.fp8_flops is not None]
    roles = [_role(size, precision, latents_per_decode) for precision, latents_per_decode in forms]
    available = memory_model.available_bytes(gpu)
    role = next((role for role in roles if memory_model.forecast_bytes(role) <= available), None)
    if role is None:
        raise InputRejected(_too_large(gpu, size, memory_model.forecast_bytes(roles[-1]), available))
    with_text = dataclasses.replace(role, encodes_text=True)
    text_fits = memory_model.forecast_bytes(with_text) <= available
    items = memory_model.forecast(with_text if text_fits else role)
    budget = MemoryBudget(rank=0, role="all", gpu=gpu.name, available_bytes=available, items=items)
    return ExecutionPlan(
        engine="s2v",
        width=size.width,
        height=size.height,
        decisions=(*decisions, *_frugality(role)),
        model=files,
        parallel=ParallelPlan(step_split=(MAX_STEPS,)),
        precision=role.precision,
        offload=Offload(text_encoder=not text_fits),
        latents_per_decode=role.latents_per_decode,
        budgets=(budget,),
    )


def _role(size: VideoSize, precision: Precision, latents_per_decode: int) -> RankRole:
    return RankRole(
        size=size,
        num_steps=MAX_STEPS,
        precision=precision,
        latents_per_decode=latents_per_decode,
        encodes_speech=True,
    )


def _frugality(role: RankRole) -> Sequence[str]:
    sentences = []
    if role.precision == "fp8":
        sentences.append("The model's weights are kept in 8 bits, because 16 do not fit on the card.")
    if role.latents_per_decode == 1:
        sentences.append("Pictures are decoded in smaller pieces, which needs less memory and more time.")
    return sentences


def _too_large(gpu: GpuSpec, size: VideoSize, needed: int, available: int) -> Diagnosis:
    fitting = _largest_fitting_tier(gpu, size)
    return Diagnosis(
        code="nothing_fits",
        title=f"The s2v engine cannot make {size} on this machine.",
        cause=f"It needs {gib_text(needed)} of graphics memory; the {gpu.name} offers {gib_text(available)}.",
        remedy=(
            f"Choose the size {fitting}, or the engine portrait."
            if fitting
            else "Choose the engine portrait."
        ),
        facts={"needed_bytes": needed, "available_bytes": available},
    )


def _largest_fitting_tier(gpu: GpuSpec, size: VideoSize) -> str:
    """Return the name of the largest offered size that fits for pictures of this shape, empty when none does."""
    precision: Precision = "bf16" if gpu.fp8_flops is None else "fp8"
    for tier in reversed(TIERS):
        name = f"{tier.landscape[0]}*{tier.landscape[1]}"
        smaller, _ = fixed_size(name, (8 * size.width, 8 * size.height))
        if memory_model.forecast_bytes(_role(smaller, precision, 1)) <= memory_model.available_bytes(gpu):
            return name
    return ""


_NOT_SET_UP = Diagnosis(
    code="engine_unavailable",
    title="The s2v engine is not set up.",
    cause="No model checkpoint was named.",
    remedy="Start the app with --ckpt-dir (see docs/models.md), or choose the engine auto or portrait.",
)

_NO_CARD = Diagnosis(
    code="no_graphics_card",
    title="The s2v engine needs a graphics card.",
    cause="None was found, and on the processor a second of video would take about a quarter of an hour.",
    remedy="Choose the engine auto or portrait.",
)
