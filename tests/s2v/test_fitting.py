"""Pictures of another size in the same file."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from liveavatar.conditioning.image import prepare_picture
from liveavatar.engines.s2v.adaptive import backdrop_of
from liveavatar.engines.s2v.fitting import fit_into


@pytest.fixture
def portrait() -> Image.Image:
    """A grey picture with a bright spot off its centre."""
    levels = np.full((360, 640, 3), 60, np.uint8)
    levels[90:150, 380:440] = 250
    return Image.fromarray(levels)


@pytest.mark.parametrize(
    ("small", "file"),
    [
        ((256, 384), (384, 704)),
        ((192, 448), (384, 704)),
        ((384, 704), (256, 384)),
        ((320, 320), (384, 704)),
    ],
)
def test_the_face_keeps_its_place(
    portrait: Image.Image, small: tuple[int, int], file: tuple[int, int]
) -> None:
    pictures = backdrop_of(prepare_picture(portrait, *small))[None].repeat(2, axis=0)
    backdrop = backdrop_of(prepare_picture(portrait, *file))
    fitted = fit_into(pictures, backdrop)
    assert fitted.shape == (2, *file, 3)
    assert fitted.dtype == np.uint8
    assert spot(fitted[0]) == pytest.approx(spot(backdrop), abs=1.5)


def spot(picture: np.ndarray) -> tuple[float, float]:
    rows, columns = np.nonzero(picture[..., 0] > 200)
    return float(rows.mean()), float(columns.mean())


def test_what_a_narrower_picture_has_not_got_is_the_still_portrait() -> None:
    backdrop = np.full((64, 128, 3), 7, np.uint8)
    fitted = fit_into(np.full((1, 64, 64, 3), 200, np.uint8), backdrop)
    assert (fitted[0, :, :32] == 7).all()
    assert (fitted[0, :, 32:96] == 200).all()
    assert (fitted[0, :, 96:] == 7).all()


def test_pictures_of_the_files_size_are_not_touched() -> None:
    pictures = torch.randint(0, 255, (2, 64, 64, 3), dtype=torch.uint8).numpy()
    assert fit_into(pictures, pictures[0]) is pictures
