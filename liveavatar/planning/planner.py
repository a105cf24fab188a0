"""Chooses the engine and the picture size. A pure function; every automatic choice adds one note."""

from __future__ import annotations

from liveavatar.core.errors import InputRejected
from liveavatar.core.note import Note
from liveavatar.core.plan import ExecutionPlan
from liveavatar.core.request import AUTO
from liveavatar.core.sizes import parse_size, size_for_picture
from liveavatar.planning.s2v_request import S2vSetup, plan_s2v

NO_S2V = S2vSetup()

_BUILT_IN = Note(code="built_in_engine", text="The built-in engine makes this video.")
_NO_STEPS = Note(
    code="no_steps", text="The built-in engine has no denoising steps; their number is not used."
)


def plan_request(
    *,
    engine: str,
    size: str,
    picture_width: int,
    picture_height: int,
    num_steps: int | None = None,
    pin_size: bool = False,
    s2v: S2vSetup = NO_S2V,
) -> ExecutionPlan:
    """Return the plan for a picture of the given pixels.

    `auto` takes the s2v engine when a checkpoint was named and there is a graphics card for it. `num_steps` and
    `pin_size` concern that engine; the built-in one has no steps and always fits. Raises InputRejected when the
    engine that was asked for cannot be used, and for a size that is not offered.
    """
    picture = (picture_width, picture_height)
    if size != AUTO:
        parse_size(size)

    def with_model() -> ExecutionPlan:
        return plan_s2v(s2v, size=size, picture=picture, num_steps=num_steps, pin_size=pin_size)

    if engine == "s2v":
        return with_model()
    if engine == AUTO and s2v.gpus and (s2v.files or s2v.problem):
        try:
            return with_model()
        except InputRejected as rejection:
            return _plan_portrait(size, picture, num_steps, _BUILT_IN, Note.of(rejection.diagnosis))
    return _plan_portrait(size, picture, num_steps)


def _plan_portrait(
    size: str, picture: tuple[int, int], num_steps: int | None, *decisions: Note
) -> ExecutionPlan:
    width, height = size_for_picture(*picture) if size == AUTO else parse_size(size)
    if num_steps is not None:
        decisions += (_NO_STEPS,)
    return ExecutionPlan(engine="portrait", width=width, height=height, decisions=decisions)
