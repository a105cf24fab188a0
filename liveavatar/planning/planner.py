"""Chooses the engine and the picture size. A pure function; every automatic choice adds one plain sentence."""

from __future__ import annotations

from liveavatar.core.errors import Diagnosis, InputRejected
from liveavatar.core.plan import ExecutionPlan
from liveavatar.core.request import AUTO
from liveavatar.core.sizes import parse_size, size_for_picture


def plan_request(*, engine: str, size: str, picture_width: int, picture_height: int) -> ExecutionPlan:
    """Return the plan for a picture of the given pixels. Raises InputRejected when the engine is not installed."""
    if engine == "s2v":
        raise InputRejected(
            Diagnosis(
                code="engine_unavailable",
                title="The s2v engine is not part of this version.",
                cause="Only the built-in portrait engine is installed.",
                remedy="Choose the engine auto or portrait.",
            )
        )
    if size != AUTO:
        width, height = parse_size(size)
        return ExecutionPlan(engine="portrait", width=width, height=height)
    width, height = size_for_picture(picture_width, picture_height)
    return ExecutionPlan(engine="portrait", width=width, height=height)
