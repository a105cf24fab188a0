"""Make a video of every portrait with two voices, the way the page does, and check that each is whole.

    python -m benchmarks.portrait_pairs --portraits DIR --voices DIR [--clicks FILE.json] [--out FILE.json]

Each video goes through intake, the engine process, the encoder and the final file. It is whole when every frame and
all sound decode, the frames are as many as the voice needs, the index comes first, and picture, sound and voice are
equally long to within 40 ms. Portraits without a face that is found are made with the clicks given for them, or move
as a whole. Prints one JSON object; the exit code is 0 only when every video is whole.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import av

from benchmarks.portrait_acceptance import machine
from benchmarks.portrait_scenes import pictures_in, voice_for, voices_in
from liveavatar.config import AppConfig
from liveavatar.core.job import Job
from liveavatar.core.plan import FPS
from liveavatar.core.request import FaceClicks, GenerationRequest
from liveavatar.service.facade import Studio
from ui.resubmit import parse_clicks

VOICES_PER_PORTRAIT = 2
MAX_DRIFT_S = 0.04
DEADLINE_S = 600.0


def main() -> None:
    """Make and check all pairs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--portraits", type=Path, required=True)
    parser.add_argument("--voices", type=Path, required=True)
    parser.add_argument("--clicks", type=Path, help="JSON with clicked faces, by picture name")
    parser.add_argument("--out", type=Path, help="write the JSON here as well")
    given = parser.parse_args()
    clicks = json.loads(given.clicks.read_text(encoding="utf8")) if given.clicks else {}
    before = machine()
    with tempfile.TemporaryDirectory() as data_dir:
        studio = Studio(AppConfig(data_dir=Path(data_dir)))
        studio.start()
        try:
            videos = [
                make_and_check(studio, portrait, voice, parse_clicks(clicks.get(portrait.name)))
                for portrait, voice in pairs(pictures_in(given.portraits), voices_in(given.voices))
            ]
        finally:
            studio.close()
    num_whole = sum(not video["faults"] for video in videos)
    report = {"machine": before, "videos": len(videos), "whole": num_whole, "results": videos}
    text = json.dumps(report, indent=1)
    print(text)
    if given.out:
        given.out.write_text(text + "\n", encoding="utf8")
    sys.exit(0 if num_whole == len(videos) else 1)


def pairs(portraits: list[Path], voices: list[Path]) -> list[tuple[Path, Path]]:
    """Each portrait with its own voice or one in turn, and with the one after that."""
    chosen = []
    for index, portrait in enumerate(portraits):
        first = voices.index(voice_for(portrait, voices, index))
        chosen += [(portrait, voices[(first + step) % len(voices)]) for step in range(VOICES_PER_PORTRAIT)]
    return chosen


def make_and_check(studio: Studio, portrait: Path, voice: Path, clicks: FaceClicks | None) -> dict[str, Any]:
    """Make one video, if need be with clicks or of the whole picture, and describe it."""
    request, face = GenerationRequest(image_path=str(portrait), audio_path=str(voice)), "found"
    job = finish(studio, request)
    if job.diagnosis and job.diagnosis.code == "no_face":
        face = "clicked" if clicks else "none: the whole picture moves"
        job = finish(studio, dataclasses.replace(request, face_clicks=clicks, whole_picture=clicks is None))
    video = studio.video_path(job.id)
    described = {
        "portrait": portrait.name,
        "voice": voice.name,
        "face": face,
        "state": str(job.state),
        "frames_per_second": round(job.fps, 1),
    }
    return described | (check(video, job.audio_seconds) if video else {"faults": ["there is no video"]})


def finish(studio: Studio, request: GenerationRequest) -> Job:
    """Queue a video and wait for its end."""
    job = studio.submit(request)
    deadline = time.monotonic() + DEADLINE_S
    while not job.state.is_terminal:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{request.image_path} took longer than {DEADLINE_S:.0f} s")
        time.sleep(0.1)
        job = studio.job(job.id)
    return job


def check(path: Path, voice_s: float) -> dict[str, Any]:
    """Decode a whole video: its sizes and lengths, and a list of what is wrong with it."""
    with av.open(str(path)) as container:
        picture, sound = container.streams.video[0], container.streams.audio[0]
        size = f"{picture.width}*{picture.height}"
        lengths = [float((stream.duration or 0) * (stream.time_base or 0)) for stream in (picture, sound)]
        num_frames = sum(1 for _ in container.decode(picture))
    with av.open(str(path)) as container:
        num_samples = sum(frame.samples for frame in container.decode(audio=0))
        sound_s = num_samples / container.streams.audio[0].rate
    start = path.read_bytes()
    needed = math.ceil(round(voice_s * FPS, 3))
    faults = {
        f"{num_frames} frames instead of {needed}": num_frames != needed,
        "the index does not come first": start.index(b"moov") > start.index(b"mdat"),
        f"picture and sound differ by {abs(lengths[0] - lengths[1]):.3f} s": abs(lengths[0] - lengths[1])
        > MAX_DRIFT_S,
        f"sound of {sound_s:.2f} s for a voice of {voice_s:.2f} s": abs(lengths[1] - voice_s) > MAX_DRIFT_S
        or sound_s < voice_s,
    }
    return {
        "size": size,
        "num_frames": num_frames,
        "picture_s": round(lengths[0], 3),
        "sound_s": round(lengths[1], 3),
        "voice_s": round(voice_s, 3),
        "bytes": len(start),
        "faults": [fault for fault, is_so in faults.items() if is_so],
    }


if __name__ == "__main__":
    main()
