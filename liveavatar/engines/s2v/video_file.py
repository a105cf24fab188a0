"""The video file of a request while it grows, and the silent request that an engine warms up with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray
from PIL import Image

from liveavatar.conditioning.image import prepare_picture
from liveavatar.core.plan import FPS, ExecutionPlan
from liveavatar.core.request import AUDIO_RATE, ValidatedRequest
from liveavatar.engines.s2v.adaptive import backdrop_of
from liveavatar.engines.s2v.fitting import fit_into
from liveavatar.engines.s2v.history import History
from liveavatar.media.encoder import StreamEncoder
from liveavatar.media.made import Made, read_made
from liveavatar.pipeline.decode import PICTURES_PER_BLOCK
from liveavatar.pipeline.delivery import Pictures

_SAMPLES_PER_PICTURE = AUDIO_RATE // FPS


class VideoFile:
    """The growing video file: one size from its first picture to its last, whatever size pictures are made in."""

    def __init__(self, request: ValidatedRequest) -> None:
        self._image_path = request.image_path
        self._voice = soundfile.SoundFile(request.audio_path)
        self.num_frames: int = -(-self._voice.frames // _SAMPLES_PER_PICTURE)
        self.num_done = 0
        self._encoder: StreamEncoder | None = None  # opened in the size of the first picture
        self._num_to_skip = 0  # pictures to come that the file has already

    def __enter__(self) -> VideoFile:
        return self

    def __exit__(self, *error: object) -> None:
        self._voice.close()

    def go_on(self, path: Path) -> History:
        """Go on with a file that broke off and return its history. What comes next is the block after that."""
        made = read_made(path)
        if made is None:
            return History()
        self.num_done = made.num_frames
        self._num_to_skip = made.num_frames % PICTURES_PER_BLOCK
        self._open(made.width, made.height, made)
        return History.of_file(path, made.num_frames)

    def _open(self, width: int, height: int, made: Made | None = None) -> None:
        with Image.open(self._image_path) as portrait:
            self._backdrop = backdrop_of(prepare_picture(portrait, height, width))
        self._encoder = StreamEncoder(width, height, fps=FPS, made=made)
        self._voice.seek(self._encoder.first_sample)

    def add(self, pictures: Pictures, plan: ExecutionPlan) -> bytes:
        """Add a block that was made by the plan, and its sound; return the bytes that are ready, possibly none."""
        if self._encoder is None:
            self._open(plan.width, plan.height)
        assert self._encoder is not None, "it was opened"
        pictures = pictures[self._num_to_skip :]
        self._num_to_skip = 0
        pictures = pictures[: self.num_frames - self.num_done]  # the last block is cut to the voice
        self.num_done += len(pictures)
        end = self.num_done * _SAMPLES_PER_PICTURE
        sound = self._voice.read(max(0, end - self._voice.tell()), dtype="int16")
        return self._encoder.encode(fit_into(pictures, self._backdrop), sound)

    def finish(self) -> bytes:
        """Return the last bytes: with them the file is a whole video of what was added."""
        return self._encoder.finish() if self._encoder else b""


def silent_request(folder: Path, num_frames: int) -> ValidatedRequest:
    """Return a request for a silent video of a grey picture whose files lie in `folder`."""
    return grey_request("warm-up", folder, np.zeros(num_frames * _SAMPLES_PER_PICTURE, np.int16), side=256)


def grey_request(job_id: str, folder: Path, samples: NDArray[np.int16], *, side: int) -> ValidatedRequest:
    """Return a request for a grey picture of `side` pixels that says the samples; its files lie in `folder`."""
    picture, voice = folder / "picture.png", folder / "voice.wav"
    Image.new("RGB", (side, side), "grey").save(picture)
    soundfile.write(voice, samples, AUDIO_RATE)
    return ValidatedRequest(
        job_id=job_id,
        image_path=str(picture),
        audio_path=str(voice),
        audio_seconds=len(samples) / AUDIO_RATE,
        prompt="",
        seed=0,
        face_clicks=None,
        whole_picture=False,
    )
