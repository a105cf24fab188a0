"""Plan how head, eyes and brows accompany a voice: nods on stress, new poses after pauses, blinks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from liveavatar.engines.portrait.motion import FPS, Floats, FramePose, Style

EASE_IN_S = 0.8  # from the portrait's own pose into motion
BLINK_SHAPE = np.array([0.30, 0.85, 1.0, 1.0, 0.82, 0.52, 0.24, 0.07], np.float32)  # lids, frame by frame
FIRST_BLINK_S = (0.9, 2.6)
BLINK_GAP_S = (2.5, 5.8)  # 10 to 24 blinks a minute, whatever the voice does
PAUSE_LEVEL = 0.35  # activity below this is a pause
MIN_PAUSE_S = 0.2
MAX_POSE_S = 4.0  # a speaker who does not pause still shifts
GAZE_HOLD_S = (0.6, 2.4)
STYLE_GAZE = 0.20  # how far the irises turn for a full look aside, in eye half-widths
STYLE_YAW = 0.06  # and the head with them, radians


@dataclass(frozen=True, kw_only=True)
class MotionPlan:
    """The pose of every frame. Each array has shape (T,); the meanings and units are those of `FramePose`."""

    yaw: Floats
    pitch: Floats
    roll: Floats
    sway_x: Floats
    sway_y: Floats
    breath: Floats
    brow: Floats
    blink: Floats
    gaze_x: Floats
    gaze_y: Floats
    smile: Floats

    def __len__(self) -> int:
        return len(self.yaw)

    def pose(self, index: int) -> FramePose:
        """The pose of frame `index`; raises `IndexError` beyond the last one."""
        return FramePose(
            yaw=float(self.yaw[index]),
            pitch=float(self.pitch[index]),
            roll=float(self.roll[index]),
            sway_x=float(self.sway_x[index]),
            sway_y=float(self.sway_y[index]),
            breath=float(self.breath[index]),
            brow=float(self.brow[index]),
            blink=float(self.blink[index]),
            gaze_x=float(self.gaze_x[index]),
            gaze_y=float(self.gaze_y[index]),
            smile=float(self.smile[index]),
        )


def plan_motion(energy: Floats, activity: Floats, *, style: Style, seed: int) -> MotionPlan:
    """Plan the motion for a whole voice of T frames at 25 per second; the same input gives the same plan.

    `energy` (T,) is the RMS of the voice and `activity` (T,) tells speech (1) from silence (0). Frame 0 is
    the portrait itself. Raises `ValueError` when the two differ in length.
    """
    if energy.shape != activity.shape or energy.ndim != 1:
        raise ValueError(f"energy {energy.shape} and activity {activity.shape} must be equally long vectors")
    num_frames = len(energy)
    rng = np.random.default_rng(seed)
    ease = _ease_in(num_frames)
    head = _plan_head(energy, activity, style, rng)
    head = {name: ease * values for name, values in head.items()}
    gaze = _plan_gaze(head, style, rng)
    smile = style.smile * (0.9 + 0.1 * np.clip(_noise(num_frames, rng, 3.0), -1, 1))
    return MotionPlan(
        **{name: values.astype(np.float32) for name, values in head.items()},
        gaze_x=(ease * gaze[0]).astype(np.float32),
        gaze_y=(ease * gaze[1]).astype(np.float32),
        breath=(ease * _breathing(num_frames, rng)).astype(np.float32),
        smile=(ease * smile).astype(np.float32),
        blink=_blinks(activity, rng),
    )


def _plan_head(energy: Floats, activity: Floats, style: Style, rng: np.random.Generator) -> dict[str, Floats]:
    """Head, shoulders and brows, each (T,): amplitudes are those of a presenter, chosen by eye."""

    def noise(period_s: float) -> Floats:
        return _noise(len(energy), rng, period_s)

    loudness = _loudness(energy)
    stress = _smooth(loudness, 2.5) - _smooth(loudness, 14.0)  # syllables that stand out
    emphasis = _smooth(np.clip(stress - 0.10, 0, 1) * 3.0, 3.0)
    talking = 0.5 + 0.5 * _smooth(activity, 10.0)  # listeners move less than speakers
    lively = style.liveliness * talking
    held_yaw, held_pitch, held_roll = _held_poses(activity, rng)
    yaw = lively * (0.062 * held_yaw + 0.034 * noise(2.6) + 0.010 * noise(0.9))
    pitch = lively * (0.014 * held_pitch + 0.016 * noise(2.2) + 0.13 * _smooth(stress, 1.5))
    roll = lively * (0.020 * held_roll + 0.012 * noise(3.2) + 0.005 * noise(1.0))
    sway_x = lively * (0.012 * held_yaw + 0.020 * noise(4.0))
    sway_y = lively * (0.015 * _smooth(stress, 2.5) + 0.008 * noise(3.0))
    brow = lively * (0.22 * np.clip(emphasis, 0, 1.5) + 0.02 * noise(3.0))
    return {
        "yaw": np.clip(yaw + STYLE_YAW * style.gaze_x, -0.20, 0.20),
        "pitch": np.clip(pitch + 0.6 * STYLE_YAW * style.gaze_y, -0.12, 0.14),
        "roll": np.clip(roll, -0.07, 0.07),
        "sway_x": np.clip(sway_x, -0.08, 0.08),
        "sway_y": np.clip(sway_y, -0.05, 0.05),
        "brow": np.clip(brow, -0.05, 0.22),
    }


def _plan_gaze(head: dict[str, Floats], style: Style, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Where the irises turn, (T,) each: small glances, and steadily back to the camera as the head turns."""
    glance_x, glance_y = _glances(len(head["yaw"]), rng)
    stays_x = 0.6 * (1 - abs(style.gaze_x)) * head["yaw"]
    stays_y = 0.4 * (1 - abs(style.gaze_y)) * head["pitch"]
    x = glance_x + STYLE_GAZE * style.gaze_x - stays_x
    y = glance_y + 0.7 * STYLE_GAZE * style.gaze_y - stays_y
    return np.clip(x, -0.30, 0.30).astype(np.float32), np.clip(y, -0.20, 0.20).astype(np.float32)


def _ease_in(num_frames: int) -> Floats:
    ramp = np.clip(np.arange(num_frames, dtype=np.float32) / (EASE_IN_S * FPS), 0, 1)
    return np.asarray(ramp * ramp * (3 - 2 * ramp), np.float32)


def _loudness(energy: Floats) -> Floats:
    """Energy relative to the loud parts of this voice, 0 .. 1.2."""
    if len(energy) == 0:
        return energy.astype(np.float32)
    loud = float(np.percentile(energy, 95))
    return np.asarray(np.clip(energy / max(loud, 1e-4), 0, 1.2), np.float32)


def _smooth(values: Floats, sigma_frames: float) -> Floats:
    """Gaussian smoothing over time; the ends are held."""
    if len(values) == 0:
        return values
    reach = int(np.ceil(3 * sigma_frames))
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma_frames) ** 2)
    padded = np.pad(values.astype(np.float64), reach, mode="edge")
    return np.asarray(np.convolve(padded, kernel / kernel.sum(), "valid"), np.float32)


def _noise(num_frames: int, rng: np.random.Generator, period_s: float) -> Floats:
    """Smooth random wandering with a standard deviation of 1, turning about every `period_s` seconds."""
    sigma = period_s * FPS / (2 * np.pi)
    reach = int(np.ceil(3 * sigma))
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    white = rng.standard_normal(num_frames + 2 * reach)
    wandering = np.convolve(white, kernel / np.sqrt((kernel**2).sum()), "valid")[:num_frames]
    return np.asarray(np.clip(wandering, -2.2, 2.2), np.float32)


def _held_poses(activity: Floats, rng: np.random.Generator) -> Floats:
    """Poses (3, T) that change as a new phrase begins: people turn with their thoughts, then hold still."""
    num_frames = len(activity)
    poses = np.zeros((3, num_frames), np.float32)
    current = np.zeros(3, np.float32)
    pause_length = frames_held = 0
    for index in range(num_frames):
        speaks = activity[index] >= PAUSE_LEVEL
        starts_phrase = speaks and pause_length >= MIN_PAUSE_S * FPS
        if starts_phrase or frames_held >= MAX_POSE_S * FPS:
            # A pull to the middle keeps the face to the camera over long speeches.
            current = np.clip(0.2 * current + rng.normal(0, 0.9, 3), -1.6, 1.6).astype(np.float32)
            frames_held = 0
        pause_length = 0 if speaks else pause_length + 1
        frames_held += 1
        poses[:, index] = current
    return np.stack([_smooth(pose, 8.0) for pose in poses]) if num_frames else poses


def _glances(num_frames: int, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Small saccades around the camera: quick moves of two frames, then rest."""
    x, y = np.zeros(num_frames, np.float32), np.zeros(num_frames, np.float32)
    start = int(rng.uniform(*GAZE_HOLD_S) * FPS)
    while start < num_frames:
        end = start + max(3, int(rng.uniform(*GAZE_HOLD_S) * FPS))
        x[start:end], y[start:end] = rng.normal(0, 0.05), rng.normal(0, 0.022)
        start = end
    return _smooth(x, 0.7), _smooth(y, 0.7)


def _breathing(num_frames: int, rng: np.random.Generator) -> Floats:
    """About 16 breaths a minute, none quite like the last, in head radii."""
    phase = 2 * np.pi * (0.27 * np.arange(num_frames) / FPS) + 0.6 * _noise(num_frames, rng, 6.0)
    return np.asarray(0.012 * np.sin(phase), np.float32)


def _blinks(activity: Floats, rng: np.random.Generator) -> Floats:
    """Lid closure (T,): each blink lies where the voice pauses, or nearly, within reach of its due time.

    The last frame, which a player keeps showing, has open eyes.
    """
    closure = np.zeros(len(activity), np.float32)
    last_start = len(activity) - 1 - len(BLINK_SHAPE)
    earliest, latest = (int(limit * FPS) for limit in FIRST_BLINK_S)
    while earliest <= last_start:
        candidates = np.arange(earliest, min(latest, last_start) + 1)
        due = rng.uniform(earliest, latest)
        cost = activity[candidates] + np.abs(candidates - due) / (latest - earliest)
        start = int(candidates[np.argmin(cost)])
        closure[start : start + len(BLINK_SHAPE)] = BLINK_SHAPE
        earliest, latest = (start + int(limit * FPS) for limit in BLINK_GAP_S)
    return closure
