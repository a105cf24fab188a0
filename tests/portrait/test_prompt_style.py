"""Steering by words: what is understood, what is not, and that denials are respected."""

from __future__ import annotations

import pytest

from liveavatar.engines.portrait.motion import Style
from liveavatar.engines.portrait.prompt_style import style_from_prompt


@pytest.mark.parametrize(
    ("prompt", "cue"),
    [
        ("A calm teacher explains fractions.", "calm"),
        ("she speaks calmly", "calm"),
        ("a lively host", "lively"),
        ("An ENERGETIC fitness coach", "energetic"),
        ("He smiles at the end.", "smile"),
        ("a smiling woman", "smile"),
        ("speaking warmly to the audience", "warm"),
        ("a serious news anchor", "serious"),
        ("looks slightly left", "look left"),
        ("glancing to the right", "look right"),
        ("looking up at the sky", "look up"),
        ("he looks down", "look down"),
        ("talking to the camera", "look at the camera"),
        ("她平静地说话", "calm"),
        ("活泼的主持人", "lively"),
        ("充满活力地演讲", "energetic"),
        ("面带微笑", "smile"),
        ("表情严肃", "serious"),
        ("看向左边", "look left"),
        ("看着镜头", "look at the camera"),
        ("😊", "smile"),
        ("🙂🙂", "smile"),
    ],
)
def test_cues_are_understood(prompt: str, cue: str) -> None:
    assert cue in style_from_prompt(prompt)[1]


@pytest.mark.parametrize(
    "prompt",
    [
        "",
        "   ",
        "A robot in a red spaceship drinks tea.",
        "🚀🎉",
        "warm light falls on a kitchen in the afternoon",
        "a kind of still life with a lamp on the left",
        "the left hand holds a microphone",
        "?!...",
        "一只猫坐在红色的椅子上",
    ],
)
def test_other_prompts_change_nothing(prompt: str) -> None:
    assert style_from_prompt(prompt) == (Style(), ())


@pytest.mark.parametrize(
    "prompt",
    [
        "She does not smile.",
        "He doesn't smile at all",
        "no smiling please",
        "a presenter without a smile",
        "never grinning",
        "他不笑，没有微笑",
        "不要微笑",
    ],
)
def test_denied_smiles_are_no_smiles(prompt: str) -> None:
    style, understood = style_from_prompt(prompt)
    assert style.smile == 0
    assert "not smile" in understood


def test_denial_ends_with_its_clause() -> None:
    assert style_from_prompt("She is not loud, but smiles a lot.")[0].smile > 0
    assert style_from_prompt("Not sad. Smiling.")[0].smile > 0


def test_a_smile_asked_for_and_denied_elsewhere_counts_as_asked() -> None:
    assert style_from_prompt("She does not smile first. Then she smiles.")[0].smile > 0


def test_not_lively_is_calm() -> None:
    style, understood = style_from_prompt("not energetic")
    assert style.liveliness < 1
    assert understood == ("not energetic",)


def test_levels_are_ordered_and_mixtures_lie_between() -> None:
    calm, lively, energetic = (
        style_from_prompt(word)[0].liveliness for word in ("calm", "lively", "energetic")
    )
    assert calm < 1 < lively < energetic
    assert calm < style_from_prompt("calm but energetic")[0].liveliness < energetic


def test_directions_are_those_of_the_picture_unless_the_persons_own() -> None:
    assert style_from_prompt("looks left")[0].gaze_x == -1
    assert style_from_prompt("looks right")[0].gaze_x == 1
    assert style_from_prompt("she looks to her left")[0].gaze_x == 1
    assert style_from_prompt("looks up")[0].gaze_y == -1
    assert style_from_prompt("低头")[0].gaze_y == 1
    both = style_from_prompt("looking up and to the left")[0]
    assert both.gaze_y == -1


def test_each_cue_is_named_once_and_all_are_named() -> None:
    _, understood = style_from_prompt("A calm, calm, smiling host looks at the camera and smiles warmly.")
    assert sorted(understood) == ["calm", "look at the camera", "smile", "warm"]


def test_long_prompts_are_quick_to_read() -> None:
    style, understood = style_from_prompt("not " * 3000 + "look " * 3000 + "她不" * 2000)
    assert understood == ()
    assert style == Style()
