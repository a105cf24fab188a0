"""The built-in engine: animates the portrait itself, on the processor, faster than real time."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import soundfile
from numpy.typing import NDArray

from liveavatar.core.engine import OnLoadStage, not_shown
from liveavatar.core.errors import Diagnosis, EngineFailed
from liveavatar.core.events import Adjust, Cancelled, Chunk, EngineEvent, Finished, Notice, Progress
from liveavatar.core.note import Note
from liveavatar.core.plan import ExecutionPlan
from liveavatar.core.request import AUDIO_RATE, FaceClicks, ValidatedRequest
from liveavatar.engines.portrait.clicks import points_from_clicks
from liveavatar.engines.portrait.face_finder import FaceFinder
from liveavatar.engines.portrait.face_points import FacePoints
from liveavatar.engines.portrait.head_motion import MotionPlan, plan_motion
from liveavatar.engines.portrait.mel import SAMPLE_RATE
from liveavatar.engines.portrait.motion import FPS, Floats
from liveavatar.engines.portrait.prompt_style import style_from_prompt
from liveavatar.engines.portrait.renderer import PortraitRenderer, StillRenderer
from liveavatar.engines.portrait.speech_motion import SpeechAnalyser, voice_activity
from liveavatar.engines.portrait.voice_file import read_16k
from liveavatar.media.encoder import StreamEncoder

log = logging.getLogger(__name__)

CHUNK_FRAMES = 10  # 0.4 s: what the page waits for at least
_FACE_SEARCH_S = 8.0  # processor seconds; the whole pyramid takes about five
_SAMPLES_PER_FRAME = AUDIO_RATE // FPS

Picture = NDArray[np.uint8]


class _Scene(NamedTuple):
    """The renderer of one job and what to tell about it."""

    renderer: PortraitRenderer | StillRenderer
    notes: tuple[Note, ...]


class PortraitEngine:
    """Implements `liveavatar.core.engine.Engine`."""

    def load(self, plan: ExecutionPlan, on_stage: OnLoadStage = not_shown) -> None:
        """Load both nets and run everything once: first calls are slow."""
        self._face_finder = FaceFinder()
        self._speech = SpeechAnalyser()
        noise = np.random.default_rng(0).integers(0, 255, (96, 128, 3), dtype=np.uint8)
        self._face_finder.find_faces(noise, time_limit_s=0.5)
        silence = np.zeros(2 * 16_000, np.float32)
        mouth = self._speech.motion(silence).mouth
        poses = plan_motion(*voice_activity(silence), style=style_from_prompt("")[0], seed=0)
        points = points_from_clicks(
            mouth_left=(0.4, 0.6),
            mouth_right=(0.6, 0.6),
            chin=(0.5, 0.8),
            eyes=[(0.4, 0.35)],
            image_size=(128, 96),
        )
        renderer = PortraitRenderer(noise, points, plan.width, plan.height)
        encoder = StreamEncoder(plan.width, plan.height)
        encoder.encode([renderer.frame(mouth[0], poses.pose(0))], np.zeros(_SAMPLES_PER_FRAME, np.int16))
        encoder.finish()

    def generate(
        self, request: ValidatedRequest, plan: ExecutionPlan, *, should_stop: Callable[[], bool]
    ) -> Iterator[EngineEvent]:
        """Yield the video in chunks of CHUNK_FRAMES. The same request gives the same bytes.

        Raises EngineFailed with code `no_face` when there is no face, no clicks, and no leave to move the whole
        picture.
        """
        job_id = request.job_id
        with soundfile.SoundFile(request.audio_path) as voice:
            num_frames = -(-voice.frames // _SAMPLES_PER_FRAME)
            yield Progress(job_id=job_id, stage="preparing", frames_done=0, num_frames=num_frames)
            scene = self._stage(request, plan)
            style, understood = style_from_prompt(request.prompt)
            for note in (*scene.notes, *_prompt_notes(request.prompt, understood)):
                yield Notice(job_id=job_id, note=note)
            samples = read_16k(Path(request.audio_path), num_samples=num_frames * SAMPLE_RATE // FPS)
            poses = plan_motion(*voice_activity(samples), style=style, seed=request.seed)
            frames = self._frames(scene.renderer, samples, poses)
            encoder = StreamEncoder(plan.width, plan.height, fps=plan.fps)
            for first in range(0, num_frames, CHUNK_FRAMES):
                if should_stop():
                    yield Chunk(job_id=job_id, data=encoder.finish(), frames_done=first)
                    yield Cancelled(job_id=job_id)
                    return
                done = min(first + CHUNK_FRAMES, num_frames)
                pictures = [next(frames) for _ in range(first, done)]
                sound = voice.read((done - first) * _SAMPLES_PER_FRAME, dtype="int16")
                data = encoder.encode(pictures, sound)
                yield Progress(job_id=job_id, stage="generating", frames_done=done, num_frames=num_frames)
                if data:
                    yield Chunk(job_id=job_id, data=data, frames_done=done)
            yield Chunk(job_id=job_id, data=encoder.finish(), frames_done=num_frames)
            yield Finished(job_id=job_id, num_frames=num_frames)

    def adjust(self, wish: Adjust) -> None:
        """Nothing can be changed on the way; the app refuses earlier."""

    def measure(self) -> None:
        """Nothing: no graphics card is used."""

    def close(self) -> None:
        """Nothing to release beyond the process itself."""

    def _frames(
        self, renderer: PortraitRenderer | StillRenderer, samples: Floats, poses: MotionPlan
    ) -> Iterator[Picture]:
        """Render one picture after the other; the voice is analysed a window at a time."""
        index = 0
        for window in self._speech.iter_motion(samples):
            for mouth in window.mouth:
                yield renderer.frame(mouth, poses.pose(index))
                index += 1

    def _stage(self, request: ValidatedRequest, plan: ExecutionPlan) -> _Scene:
        """Find the face and prepare the renderer."""
        picture = cv2.imread(request.image_path, cv2.IMREAD_COLOR)
        assert picture is not None, "the intake wrote this file"
        image: Picture = picture.astype(np.uint8, copy=False)
        if request.face_clicks is not None:
            points = _clicked_points(request.face_clicks, image)
            return _Scene(PortraitRenderer(image, points, plan.width, plan.height), ())
        faces = self._face_finder.find_faces(image, time_limit_s=_FACE_SEARCH_S)
        if not faces:
            if not request.whole_picture:
                raise EngineFailed(_NO_FACE)
            return _Scene(StillRenderer(image, plan.width, plan.height), (_WHOLE_PICTURE_NOTE,))
        notes = (_several_faces(len(faces)),) if len(faces) > 1 else ()
        return _Scene(PortraitRenderer(image, faces[0].points, plan.width, plan.height), notes)


def _clicked_points(clicks: FaceClicks, image: Picture) -> FacePoints:
    try:
        return points_from_clicks(
            mouth_left=clicks.mouth_left,
            mouth_right=clicks.mouth_right,
            chin=clicks.chin,
            eyes=clicks.eyes,
            image_size=(image.shape[1], image.shape[0]),
            image_bgr=image,
        )
    except ValueError as error:
        raise EngineFailed(
            Diagnosis(
                code="bad_clicks",
                title="The clicked points do not form a face.",
                cause=f"{str(error).capitalize()}.",
                remedy="Click the two mouth corners, then the chin below them, then the eyes.",
            )
        ) from error


def _several_faces(count: int) -> Note:
    return Note(
        code="several_faces",
        text=f"{count} faces were found; the largest one speaks.",
        values={"count": count},
    )


def _prompt_notes(prompt: str, understood: tuple[str, ...]) -> tuple[Note, ...]:
    if not prompt:
        return ()
    if not understood:
        return (_NOTHING_UNDERSTOOD,)
    cues = ", ".join(understood)
    text = f"From the prompt: {cues}. Scenes need the s2v engine."
    return (Note(code="prompt_understood", text=text, values={"cues": cues}),)


_NOTHING_UNDERSTOOD = Note(
    code="nothing_understood",
    text="Nothing in the prompt steers the built-in engine: it understands mood, smile and look."
    " Scenes need the s2v engine.",
)
_WHOLE_PICTURE_NOTE = Note(
    code="whole_picture", text="No face was found; the whole picture moves with the voice."
)

_NO_FACE = Diagnosis(
    code="no_face",
    title="No face was found in the picture.",
    cause="The face may be too small, turned away, covered, or unlike a human one.",
    remedy="Show where the mouth and eyes are, have the whole picture moved, or choose another picture.",
)
