"""The plan of head, eyes and brows: what a viewer would notice if it broke."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from liveavatar.engines.portrait.head_motion import MotionPlan, plan_motion
from liveavatar.engines.portrait.motion import FPS, Floats, FramePose, Style

SMOOTH_FIELDS = ("yaw", "pitch", "roll", "sway_x", "sway_y", "breath", "brow", "smile")
LARGEST_STEP = {"pitch": 0.035, "yaw": 0.025, "brow": 0.03}


def speech(seconds: float, seed: int = 0) -> tuple[Floats, Floats]:
    """Phrases of 1 to 3 s with syllables, and pauses of 0.4 s between them: energy and activity."""
    rng = np.random.default_rng(seed)
    activity = np.zeros(int(seconds * FPS), np.float32)
    start = 5
    while start < len(activity):
        end = start + int(rng.uniform(1, 3) * FPS)
        activity[start:end] = 1
        start = end + 10
    syllables = 0.5 + 0.5 * np.sin(np.arange(len(activity)) * 1.3) * rng.uniform(0.3, 1, len(activity))
    return (0.1 * activity * syllables).astype(np.float32), activity


def plan(seconds: float, *, style: Style | None = None, seed: int = 1) -> MotionPlan:
    return plan_motion(*speech(seconds), style=style or Style(), seed=seed)


@pytest.mark.parametrize("style", [Style(), Style(liveliness=1.6, smile=1, gaze_x=-1, gaze_y=1)])
def test_frame_0_is_the_portrait(style: Style) -> None:
    pose = plan(5, style=style).pose(0)
    assert all(abs(value) < 1e-6 for value in dataclasses.asdict(pose).values()), pose


@pytest.mark.parametrize("liveliness", [0.3, 1.0, 1.6])
def test_no_field_jumps(liveliness: float) -> None:
    motion = plan(60, style=Style(liveliness=liveliness, smile=1.0))
    for name in SMOOTH_FIELDS:
        step = float(np.abs(np.diff(getattr(motion, name))).max())
        assert step < LARGEST_STEP.get(name, 0.08 if name == "smile" else 0.012), name


def test_same_seed_same_plan_and_other_seed_another() -> None:
    first, again, other = plan(10, seed=4), plan(10, seed=4), plan(10, seed=5)
    assert np.array_equal(first.yaw, again.yaw)
    assert np.array_equal(first.blink, again.blink)
    assert not np.array_equal(first.yaw, other.yaw)


@pytest.mark.parametrize("seed", range(6))
def test_blinks_come_10_to_25_times_a_minute_and_shut_the_eyes(seed: int) -> None:
    closed = np.concatenate([[False], plan(120, seed=seed).blink >= 0.99, [False]])
    starts, ends = (
        np.flatnonzero(np.diff(closed.astype(int)) == 1),
        np.flatnonzero(np.diff(closed.astype(int)) == -1),
    )
    assert 20 <= len(starts) <= 50
    assert (ends - starts).min() >= 1
    assert (np.diff(starts) / FPS).min() > 1.5


def test_the_last_frame_has_open_eyes() -> None:
    """A player keeps showing it."""
    for num_frames in range(30, 130):
        silence = np.zeros(num_frames, np.float32)
        motion = plan_motion(silence, silence, style=Style(), seed=num_frames)
        assert motion.blink[-1] == 0
        assert motion.blink[:-1].max() in (0, 1), "no blink is cut short"


def test_blinks_prefer_pauses() -> None:
    energy, activity = speech(300)
    motion = plan_motion(energy, activity, style=Style(), seed=2)
    onsets = np.flatnonzero((motion.blink[1:] > 0) & (motion.blink[:-1] == 0)) + 1
    share_of_pauses = float((activity < 0.5).mean())
    in_pauses = float((activity[onsets] < 0.5).mean())
    assert in_pauses > 2 * share_of_pauses


def test_silence_still_breathes_and_blinks() -> None:
    silence = np.zeros(20 * FPS, np.float32)
    motion = plan_motion(silence, silence, style=Style(), seed=0)
    assert motion.blink.max() == 1
    assert motion.breath.std() > 0.003
    assert motion.yaw.std() < plan(20).yaw.std() * 1.2


def stressed_speech() -> tuple[Floats, Floats, np.ndarray]:
    """Energy and activity of 20 s of speech, and the frames at which its stressed syllables begin."""
    energy = np.full(20 * FPS, 0.03, np.float32)
    stressed = np.arange(50, 20 * FPS, 40)
    for index in stressed:
        energy[index : index + 6] = 0.12
    return energy, np.ones(20 * FPS, np.float32), stressed


def test_stress_nods_the_head_down() -> None:
    energy, activity, stressed = stressed_speech()
    pitches = [plan_motion(energy, activity, style=Style(), seed=seed).pitch for seed in range(8)]
    pitch = np.mean(pitches, axis=0)
    assert np.mean(pitch[stressed + 3]) > np.mean(pitch[stressed - 12]) + 0.01


def test_stress_raises_the_brows_so_that_it_shows() -> None:
    energy, activity, stressed = stressed_speech()
    brows = [plan_motion(energy, activity, style=Style(), seed=seed).brow for seed in range(8)]
    raised = np.mean(brows, axis=0)[stressed + 3]
    assert raised.mean() > 0.10, "more than a pixel at an eye 30 pixels wide"


def test_style_steers() -> None:
    calm, lively = (plan(30, style=Style(liveliness=level)) for level in (0.3, 1.6))
    assert lively.yaw.std() > 3 * calm.yaw.std()
    assert len(np.flatnonzero(lively.blink == 1)) == len(np.flatnonzero(calm.blink == 1))
    left, right = (plan(10, style=Style(gaze_x=side)) for side in (-1.0, 1.0))
    assert left.gaze_x[FPS:].mean() < -0.1 < 0.1 < right.gaze_x[FPS:].mean()
    assert plan(10, style=Style(smile=0.8)).smile[FPS * 2 :].min() > 0.5


def test_everything_stays_within_what_the_renderer_can_draw() -> None:
    motion = plan(300, style=Style(liveliness=1.6, gaze_x=1, gaze_y=-1, smile=1))
    limits = {"yaw": 0.2, "pitch": 0.14, "roll": 0.07, "brow": 0.22, "gaze_x": 0.3, "gaze_y": 0.2, "blink": 1}
    for name, limit in limits.items():
        assert np.abs(getattr(motion, name)).max() <= limit + 1e-6, name
    assert all(np.isfinite(getattr(motion, field.name)).all() for field in dataclasses.fields(FramePose))


@pytest.mark.parametrize("num_frames", [0, 1, 2, 7])
def test_very_short_voices_are_planned(num_frames: int) -> None:
    values = np.full(num_frames, 0.1, np.float32)
    motion = plan_motion(values, values, style=Style(), seed=0)
    assert len(motion) == num_frames
    with pytest.raises(IndexError):
        motion.pose(num_frames)


def test_unequal_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="equally long"):
        plan_motion(np.zeros(3, np.float32), np.zeros(4, np.float32), style=Style(), seed=0)
