"""Picture sizes beyond the recorded table, and how borders come about."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from liveavatar.conditioning.actors import actor_masks
from liveavatar.conditioning.image import prepare_picture, size_for_area
from liveavatar.models.s2v import TokenGrid


@pytest.mark.parametrize("area", [384 * 256, 704 * 384, 720 * 400, 832 * 480, 1280 * 720])
@pytest.mark.parametrize(("height", "width"), [(1024, 1024), (1920, 1080), (720, 1280), (90, 3000), (64, 64)])
def test_sizes_fit_the_area_and_the_token_grids(height: int, width: int, area: int) -> None:
    rows, columns = size_for_area(height, width, area)
    assert 0 < rows * columns <= area
    assert rows % 64 == 0
    assert columns % 64 == 0


def test_sizes_above_the_published_limit_have_a_token_grid() -> None:
    height, width = size_for_area(1080, 1920, 1280 * 720)
    assert height * width > 288_000
    assert TokenGrid(latent_height=height // 8, latent_width=width // 8).sink_tokens > 3000


def test_a_picture_too_short_gets_black_borders() -> None:
    white = Image.fromarray(np.full((100, 100, 3), 255, np.uint8))
    pixels = prepare_picture(white, 64, 128)
    assert pixels.shape == (3, 64, 128)
    assert (pixels[:, :, :32] == -1).all()
    assert (pixels[:, :, 96:] == -1).all()
    assert (pixels[:, :, 32:96] == 1).all()


def test_transparent_and_grey_pictures_are_accepted() -> None:
    for mode in ("RGBA", "L", "P"):
        assert prepare_picture(Image.new(mode, (70, 80)), 64, 64).shape == (3, 64, 64)


def test_everyone_hears_their_own_voice_and_the_background_all() -> None:
    left, right = torch.zeros(80, 160), torch.zeros(80, 160)
    left[20:60, 10:50] = 255
    right[20:60, 110:150] = 255
    masks = actor_masks([left, right], num_latent_frames=3, rows=10, columns=20)
    assert masks.shape == (2, 3, 10, 20, 1)
    assert masks[0, :, 5, 3].all()
    assert not masks[1, :, 5, 3].any()
    assert masks[:, :, 0, 10].all()


def test_a_person_without_a_mask_does_not_disturb() -> None:
    person = torch.zeros(64, 64)
    person[16:48, 16:48] = 1
    masks = actor_masks([person, torch.zeros(64, 64)], num_latent_frames=3, rows=8, columns=8)
    assert masks[0].all()
