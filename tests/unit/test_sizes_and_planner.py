from __future__ import annotations

import pytest

from liveavatar.core.errors import InputRejected
from liveavatar.core.sizes import SIZES, parse_size, size_for_picture
from liveavatar.planning.planner import plan_request


@pytest.mark.parametrize("text", ["720*400", "720x400", " 720 × 400 "])
def test_sizes_are_read_as_people_write_them(text: str) -> None:
    assert parse_size(text) == (720, 400)


@pytest.mark.parametrize("text", ["", "big", "721*400", "720", "720*400*3", "99999999*4"])
def test_unknown_sizes_are_refused_with_the_list(text: str) -> None:
    with pytest.raises(InputRejected) as caught:
        parse_size(text)
    assert caught.value.diagnosis.code == "unknown_size"
    assert "720*400" in caught.value.diagnosis.remedy


@pytest.mark.parametrize("size", SIZES)
def test_the_built_in_engine_makes_every_size_as_it_was_asked_for(size: str) -> None:
    plan = plan_request(engine="portrait", size=size, picture_width=900, picture_height=1000)
    assert (plan.width, plan.height, plan.decisions) == (*SIZES[size], ())


def test_every_offered_size_can_be_encoded() -> None:
    assert all(width % 2 == 0 and height % 2 == 0 for width, height in SIZES.values())


@pytest.mark.parametrize(
    ("picture", "expected"),
    [((1920, 1080), (720, 400)), ((1080, 1920), (400, 720)), ((1000, 1100), (544, 544))],
)
def test_auto_follows_the_shape_of_the_picture(picture: tuple[int, int], expected: tuple[int, int]) -> None:
    assert size_for_picture(*picture) == expected
    plan = plan_request(engine="auto", size="auto", picture_width=picture[0], picture_height=picture[1])
    assert (plan.engine, plan.width, plan.height) == ("portrait", *expected)


def test_missing_engine_is_said() -> None:
    with pytest.raises(InputRejected) as caught:
        plan_request(engine="s2v", size="auto", picture_width=100, picture_height=100)
    assert caught.value.diagnosis.code == "engine_unavailable"
