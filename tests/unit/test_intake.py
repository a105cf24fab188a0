"""Bad input: each kind has its own sentence, and what is merely unusual is brought into shape."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
from PIL import Image

from liveavatar.core.errors import InputRejected
from liveavatar.core.request import GenerationRequest
from liveavatar.intake.audio import import_audio
from liveavatar.intake.image import import_image
from liveavatar.intake.validate import validate


def save(path: Path, size: tuple[int, int] = (200, 300), mode: str = "RGB", **options: object) -> Path:
    Image.effect_noise(size, 60).convert(mode).save(path, **options)  # type: ignore[arg-type]
    return path


def code_of(action: Callable[[], object]) -> str:
    with pytest.raises(InputRejected) as caught:
        action()
    diagnosis = caught.value.diagnosis
    assert diagnosis.title.endswith(".")
    assert diagnosis.remedy.endswith(".")
    return diagnosis.code


@pytest.mark.parametrize(
    ("size", "code"),
    [
        ((1, 1), "picture_too_small"),
        ((2000, 40), "picture_too_small"),
        ((10_000, 10_000), "picture_too_large"),
    ],
)
def test_pictures_of_useless_size(tmp_path: Path, size: tuple[int, int], code: str) -> None:
    path = tmp_path / "p.png"
    Image.new("1", size).save(path)
    assert code_of(lambda: import_image(path, tmp_path / "out.png")) == code


def test_corrupt_missing_and_foreign_pictures(tmp_path: Path) -> None:
    target = tmp_path / "out.png"
    cut = tmp_path / "cut.jpg"
    cut.write_bytes(save(tmp_path / "whole.jpg").read_bytes()[:3000])
    text = tmp_path / "text.png"
    text.write_text("not a picture")
    empty = tmp_path / "empty.png"
    empty.touch()
    assert code_of(lambda: import_image(cut, target)) == "unreadable_picture"
    assert code_of(lambda: import_image(text, target)) == "unreadable_picture"
    assert code_of(lambda: import_image(empty, target)) == "unreadable_picture"
    assert code_of(lambda: import_image(tmp_path / "none.png", target)) == "missing_picture"
    assert code_of(lambda: import_image(Path(), target)) == "missing_picture"


def test_transparency_is_filled_and_said(tmp_path: Path) -> None:
    path = tmp_path / "alpha.png"
    Image.new("RGBA", (100, 100), (255, 0, 0, 0)).save(path)
    notes = import_image(path, tmp_path / "out.png")
    assert any("transparent" in note.text for note in notes)
    with Image.open(tmp_path / "out.png") as image:
        assert image.mode == "RGB"
        assert min(image.getpixel((50, 50))) > 200  # type: ignore[type-var,arg-type]


def test_an_alpha_channel_without_transparency_is_not_mentioned(tmp_path: Path) -> None:
    path = tmp_path / "webcam.png"
    Image.new("RGBA", (100, 100), (255, 0, 0, 255)).save(path)
    assert import_image(path, tmp_path / "out.png") == []


def test_exif_rotation_is_applied_and_said(tmp_path: Path) -> None:
    path = tmp_path / "turned.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    save(path, (300, 200), exif=exif)
    notes = import_image(path, tmp_path / "out.png")
    assert any("upright" in note.text for note in notes)
    with Image.open(tmp_path / "out.png") as image:
        assert image.size == (200, 300)


@pytest.mark.parametrize("mode", ["L", "CMYK", "P", "1", "LA", "I;16"])
def test_unusual_colour_modes(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("p.tif" if mode == "CMYK" else "p.png")
    if mode == "I;16":
        Image.fromarray(np.linspace(0, 60_000, 40_000).astype(np.uint16).reshape(200, 200)).save(path)
    else:
        save(path, mode="L")
        with Image.open(path) as image:
            image.convert(mode).save(path)
    import_image(path, tmp_path / "out.png")
    with Image.open(tmp_path / "out.png") as image:
        assert image.mode == "RGB"
        assert np.asarray(image).std() > 5, "the picture must not have been flattened to one tone"


def test_huge_pictures_are_brought_to_size(tmp_path: Path) -> None:
    path = save(tmp_path / "huge.jpg", (6000, 4000))
    import_image(path, tmp_path / "out.png")
    with Image.open(tmp_path / "out.png") as image:
        assert max(image.size) <= 4096


def tone(seconds: float, rate: int, channels: int = 1, level: float = 0.3) -> np.ndarray:
    time_s = np.arange(round(seconds * rate)) / rate
    return np.repeat((level * np.sin(2 * np.pi * 220 * time_s)).astype(np.float32)[:, None], channels, axis=1)


@pytest.mark.parametrize(("rate", "channels"), [(8000, 1), (96_000, 2), (44_100, 6)])
def test_any_rate_and_channel_count_becomes_mono_48k(tmp_path: Path, rate: int, channels: int) -> None:
    soundfile.write(tmp_path / "v.wav", tone(1.0, rate, channels), rate)
    audio = import_audio(tmp_path / "v.wav", tmp_path / "out.wav", max_seconds=60)
    samples, out_rate = soundfile.read(tmp_path / "out.wav", always_2d=True)
    assert out_rate == 48_000
    assert samples.shape[1] == 1
    assert abs(audio.seconds - 1.0) < 0.01
    assert abs(samples).max() > 0.1


@pytest.mark.parametrize(
    ("seconds", "level", "code"),
    [
        (0.02, 0.3, "voice_too_short"),
        (2.0, 0.0, "silent_voice"),
        (2.0, 1e-4, "silent_voice"),
        (61.0, 0.3, "voice_too_long"),
    ],
)
def test_voices_that_cannot_be_used(tmp_path: Path, seconds: float, level: float, code: str) -> None:
    soundfile.write(tmp_path / "v.wav", tone(seconds, 16_000, level=level), 16_000)
    assert code_of(lambda: import_audio(tmp_path / "v.wav", tmp_path / "out.wav", max_seconds=60)) == code


def test_an_hour_of_audio_is_refused_by_its_header(tmp_path: Path) -> None:
    with soundfile.SoundFile(tmp_path / "v.wav", "w", 8000, 1) as file:
        for _ in range(60):
            file.write(tone(60, 8000))
    assert (
        code_of(lambda: import_audio(tmp_path / "v.wav", tmp_path / "out.wav", max_seconds=1800))
        == "voice_too_long"
    )
    assert not (tmp_path / "out.wav").exists(), "refused before anything was decoded"


def test_corrupt_missing_and_foreign_voices(tmp_path: Path) -> None:
    target = tmp_path / "out.wav"
    text = tmp_path / "text.mp3"
    text.write_text("hello " * 1000)
    playlist = tmp_path / "list.m3u8"
    playlist.write_text("#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n")
    picture = save(tmp_path / "p.png")
    assert code_of(lambda: import_audio(text, target, max_seconds=60)) == "unreadable_voice"
    assert code_of(lambda: import_audio(playlist, target, max_seconds=60)) == "unreadable_voice"
    assert code_of(lambda: import_audio(picture, target, max_seconds=60)) == "unreadable_voice"
    assert code_of(lambda: import_audio(tmp_path / "none.wav", target, max_seconds=60)) == "missing_voice"


def write_video(path: Path, *, with_sound: bool) -> Path:
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=25)
        video.width = video.height = 64
        video.pix_fmt = "yuv420p"
        audio = container.add_stream("aac", rate=48_000, layout="mono") if with_sound else None
        for _ in range(50):
            container.mux(
                video.encode(av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24"))
            )
        if audio is not None:
            frame = av.AudioFrame.from_ndarray(tone(2.0, 48_000).T.copy(), format="fltp", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = 48_000, 0, Fraction(1, 48_000)
            container.mux(audio.encode(frame))
            container.mux(audio.encode(None))
        container.mux(video.encode(None))
    return path


def test_a_video_lends_its_sound(tmp_path: Path) -> None:
    video = write_video(tmp_path / "film.mp4", with_sound=True)
    audio = import_audio(video, tmp_path / "out.wav", max_seconds=60)
    assert any("sound track" in note.text for note in audio.notes)
    assert abs(audio.seconds - 2.0) < 0.1


def test_a_silent_film_is_refused(tmp_path: Path) -> None:
    video = write_video(tmp_path / "film.mp4", with_sound=False)
    assert code_of(lambda: import_audio(video, tmp_path / "out.wav", max_seconds=60)) == "no_sound_track"


def make_request(tmp_path: Path, **changes: object) -> GenerationRequest:
    soundfile.write(tmp_path / "v.wav", tone(1.0, 16_000), 16_000)
    fields = {"image_path": str(save(tmp_path / "p.png")), "audio_path": str(tmp_path / "v.wav"), **changes}
    return GenerationRequest(**fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"size": "5*5"}, "unknown_size"),
        ({"engine": "magic"}, "unknown_engine"),
        ({"seed": -1}, "bad_seed"),
        ({"num_steps": 5}, "bad_steps"),
        ({"num_steps": 0}, "bad_steps"),
        ({"prompt": "x" * 3000}, "prompt_too_long"),
    ],
)
def test_choices_outside_of_the_offer(tmp_path: Path, changes: dict[str, object], code: str) -> None:
    request = make_request(tmp_path, **changes)
    assert code_of(lambda: validate(request, job_id="a", job_dir=tmp_path, max_audio_s=60)) == code


def test_prompts_are_cleaned_and_emoji_stay(tmp_path: Path) -> None:
    request = make_request(tmp_path, prompt=" calm\x00\n  voice 🎉 ")
    intake = validate(request, job_id="a", job_dir=tmp_path, max_audio_s=60)
    assert intake.request.prompt == "calm voice 🎉"
    assert (tmp_path / "poster.jpg").exists()
