"""The list of samples: pairs, and files that are missing."""

from __future__ import annotations

import json
from pathlib import Path

from ui.samples import Samples, load_samples


def _write(folder: Path, *, files: list[str]) -> None:
    index = {
        "portraits": [{"file": "portraits/a.jpg", "title": "A"}, {"file": "portraits/b.jpg", "title": "B"}],
        "voices": [
            {"file": "voices/x.wav", "title": "X", "language": "English", "seconds": 8.5},
            {"file": "voices/y.wav", "title": "Y", "language": "Català", "seconds": 9},
        ],
        "pairs": [{"portrait": "portraits/a.jpg", "voice": "voices/y.wav"}],
    }
    (folder / "samples.json").write_text(json.dumps(index), encoding="utf-8")
    for name in files:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).touch()


def test_pairs_and_the_voices_in_turn(tmp_path: Path) -> None:
    _write(tmp_path, files=["portraits/a.jpg", "portraits/b.jpg", "voices/x.wav", "voices/y.wav"])
    samples = load_samples(tmp_path)
    assert [portrait.voice_index for portrait in samples.portraits] == [1, 1]
    assert samples.voices[1].language == "Català"


def test_missing_files_are_left_out(tmp_path: Path) -> None:
    _write(tmp_path, files=["portraits/b.jpg", "voices/x.wav"])
    samples = load_samples(tmp_path)
    assert [(portrait.title, portrait.voice_index) for portrait in samples.portraits] == [("B", 0)]
    assert [voice.title for voice in samples.voices] == ["X"]


def test_no_samples_at_all(tmp_path: Path) -> None:
    assert load_samples(tmp_path) == Samples()
    _write(tmp_path, files=[])
    assert load_samples(tmp_path) == Samples()
