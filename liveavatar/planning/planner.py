"""Chooses the engine and the picture size. A pure function; every automatic choice adds one plain sentence."""

from __future__ import annotations

import dataclasses

from liveavatar.core.errors import InputRejected
from liveavatar.core.plan import ExecutionPlan
from liveavatar.core.request import AUTO
from liveavatar.core.sizes import parse_size, size_for_picture
from liveavatar.planning.single_card import S2vSetup, plan_single_card

NO_S2V = S2vSetup()


def plan_request(
    *, engine: str, size: str, picture_width: int, picture_height: int, s2v: S2vSetup = NO_S2V
) -> ExecutionPlan:
    """Return the plan for a picture of the given pixels.

    `auto` takes the s2v engine when a checkpoint was named and there is a graphics card for it. Raises InputRejected
    when the engine that was asked for cannot be used, and for a size that is not offered.
    """
    picture = (picture_width, picture_height)
    if size != AUTO:
        parse_size(size)
    if engine == "s2v":
        return plan_single_card(s2v, size=size, picture=picture)
    if engine == AUTO and s2v.gpus and (s2v.files or s2v.problem):
        try:
            return plan_single_card(s2v, size=size, picture=picture)
        except InputRejected as rejection:
            title, cause = rejection.diagnosis.title, rejection.diagnosis.cause
            reason = " ".join(f"The built-in engine makes this video. {title} {cause}".split())
            return dataclasses.replace(_plan_portrait(size, picture), decisions=(reason,))
    return _plan_portrait(size, picture)


def _plan_portrait(size: str, picture: tuple[int, int]) -> ExecutionPlan:
    width, height = size_for_picture(*picture) if size == AUTO else parse_size(size)
    return ExecutionPlan(engine="portrait", width=width, height=height)
