"""Show what the portrait engine makes of each portrait, on one sheet.

    python -m benchmarks.contact_sheet --portraits DIR --voices DIR --out sheet.png [--size 720*400]
    python -m benchmarks.contact_sheet --video FILE.mp4 --out sheet.png

A row per portrait: its start, the mouth at its most pressed, open, wide, round, with teeth and at f or v, a blink,
a smile, and what differs between the start and the open mouth.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from benchmarks.portrait_scenes import Scenes, Voice, parse_size, pictures_in, voice_for, voices_in
from liveavatar.engines.portrait.face_points import FacePoints
from liveavatar.engines.portrait.motion import MOUTH_CHANNELS, FramePose, Style
from liveavatar.engines.portrait.renderer import PortraitRenderer, StillRenderer

TILE_PX = 300
FACE_REACH = 1.35  # head radii shown on each side of the head's centre
DIFFERENCE_GAIN = 3
NUM_VIDEO_TILES = 24

Picture = NDArray[np.uint8]


def telling_frames(voice: Voice) -> dict[str, int]:
    """The frames of a voice that show each mouth shape best, by name."""
    channel = {name: voice.mouth[:, index] for index, name in enumerate(MOUTH_CHANNELS)}
    return {
        "start": 0,
        "press": int(np.argmax(channel["press"])),
        "open": int(np.argmax(channel["open"] + 0.5 * channel["jaw"])),
        "wide": int(np.argmax(channel["wide"] + 0.6 * channel["open"] - channel["round"])),
        "round": int(np.argmax(channel["round"] - 0.5 * channel["wide"])),
        "teeth": int(np.argmax(channel["teeth"])),
        "fv": int(np.argmax(channel["fv"])),
        "blink": int(np.argmax(voice.plan.blink)),
    }


def portrait_row(renderer: PortraitRenderer | StillRenderer, voice: Voice) -> Picture:
    """All tiles of one portrait, side by side, RGB."""
    frames = telling_frames(voice)
    pictures = {
        name: renderer.frame(voice.mouth[index], voice.plan.pose(index)) for name, index in frames.items()
    }
    pictures["smile"] = renderer.frame(voice.mouth[0], FramePose(smile=1.0))
    difference = np.abs(pictures["open"].astype(np.int16) - pictures["start"])
    pictures["difference"] = np.clip(DIFFERENCE_GAIN * difference, 0, 255).astype(np.uint8)
    tiles = []
    for name, picture in pictures.items():
        if name == "difference":
            tile = fit_tile(picture)
        elif isinstance(renderer, PortraitRenderer):
            tile = face_tile(picture, renderer.points)
        else:
            tile = fit_tile(middle_square(picture))
        tiles.append(labelled(tile, f"{name} {frames[name]}" if name in frames else name))
    return np.hstack(tiles)


def face_tile(picture: Picture, points: FacePoints) -> Picture:
    """A square around the head."""
    scale = TILE_PX / (2 * FACE_REACH * points.head_radius)
    offset = TILE_PX / 2 - scale * points.head_centre
    matrix = np.array([[scale, 0, offset[0]], [0, scale, offset[1]]])
    return np.asarray(cv2.warpAffine(picture, matrix, (TILE_PX, TILE_PX), flags=cv2.INTER_CUBIC), np.uint8)


def middle_square(picture: Picture) -> Picture:
    """The largest square in the middle."""
    rows, columns = picture.shape[:2]
    side = min(rows, columns)
    top, left = (rows - side) // 2, (columns - side) // 2
    return picture[top : top + side, left : left + side]


def fit_tile(picture: Picture) -> Picture:
    """The whole picture, at the tiles' height."""
    scale = TILE_PX / picture.shape[0]
    size = (round(picture.shape[1] * scale), TILE_PX)
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.uint8)


def labelled(tile: Picture, text: str) -> Picture:
    """Write a few words into the upper left corner."""
    for colour, thickness in (((0, 0, 0), 3), ((255, 255, 0), 1)):
        cv2.putText(tile, text, (5, 17), cv2.FONT_HERSHEY_SIMPLEX, 0.5, colour, thickness, cv2.LINE_AA)
    return tile


def stacked(rows: list[Picture]) -> Picture:
    """Rows of different widths under each other."""
    width = max(row.shape[1] for row in rows)
    return np.vstack([np.pad(row, ((0, 0), (0, width - row.shape[1]), (0, 0))) for row in rows])


def sheet_of_portraits(arguments: argparse.Namespace) -> Picture:
    """Render every portrait of a folder."""
    scenes = Scenes(arguments.clicks)
    voices = voices_in(arguments.voices)
    style = Style(smile=arguments.smile)
    rows = []
    for index, portrait in enumerate(pictures_in(arguments.portraits)):
        voice_path = voice_for(portrait, voices, index)
        voice = scenes.voice(voice_path, seconds=arguments.seconds, style=style, seed=1)
        size = parse_size(arguments.size) if arguments.size else None
        rows.append(portrait_row(scenes.renderer(portrait, size), voice))
        print(f"{portrait.name} with {voice_path.name}", flush=True)
    return stacked(rows)


def sheet_of_video(path: Path) -> Picture:
    """Frames of a finished video at regular times, six to a row."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
        rate = float(stream.average_rate or 25)
    chosen = np.unique(np.linspace(0, len(frames) - 1, NUM_VIDEO_TILES).round().astype(int))
    tiles = [labelled(fit_tile(frames[index]), f"{index / rate:.2f} s") for index in chosen]
    return stacked([np.hstack(tiles[start : start + 6]) for start in range(0, len(tiles), 6)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--portraits", type=Path)
    parser.add_argument("--voices", type=Path)
    parser.add_argument("--video", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--size", help="WIDTH*HEIGHT; by default a standard size of the portrait's shape")
    parser.add_argument("--seconds", type=float, default=8.0, help="of each voice")
    parser.add_argument("--smile", type=float, default=0.0)
    parser.add_argument("--clicks", type=Path, help="JSON with clicked faces, by picture name")
    arguments = parser.parse_args()
    if arguments.video:
        sheet = sheet_of_video(arguments.video)
    elif arguments.portraits and arguments.voices:
        sheet = sheet_of_portraits(arguments)
    else:
        parser.error("give --video, or both --portraits and --voices")
    cv2.imwrite(str(arguments.out), cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR))


if __name__ == "__main__":
    main()
