"""What an operator is told when a video is made otherwise than planned: only what differs."""

from __future__ import annotations

import pytest

from liveavatar.core.plan import PlanChange


@pytest.mark.parametrize(
    ("before", "after", "sentence"),
    [
        ("704x384, 4 steps", "704x384, 2 steps", "From 2.0 s on: 2 steps instead of 4 steps. You asked."),
        (
            "704x384, 4 steps, 8-bit caches",
            "576x320, 3 steps, 8-bit caches",
            "From 2.0 s on: 576x320, 3 steps instead of 704x384, 4 steps. You asked.",
        ),
        ("704x384, 4 steps", "704x384, 4 steps, 8-bit caches", "From 2.0 s on: 8-bit caches. You asked."),
        (
            "704x384, 4 steps, 8-bit caches",
            "704x384, 4 steps",
            "From 2.0 s on: no longer 8-bit caches. You asked.",
        ),
    ],
)
def test_what_stays_is_not_told(before: str, after: str, sentence: str) -> None:
    change = PlanChange(first_frame=50, cause="asked", before=before, after=after, reason="You asked.")
    assert change.note().text == sentence
