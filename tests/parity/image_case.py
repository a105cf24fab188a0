"""Picture sizes and prepared pixels against recorded ones."""

from __future__ import annotations

import torch
from PIL import Image

from liveavatar.conditioning.image import prepare_picture, size_for_area
from tests.parity.golden import GoldenCase, relative_error

KINDS: tuple[str, ...] = ("image_prep",)


def run_case(case: GoldenCase) -> dict[str, float]:
    """Return the share of wrong sizes and the error of every picture's pixels."""
    table = case.io["size_table_h_w_area_outh_outw"].tolist()
    num_wrong = sum(size_for_area(*row[:3]) != tuple(row[3:]) for row in table)
    errors = {"size_table": num_wrong / len(table)}
    for index, picture_case in enumerate(case.manifest["cases"]):
        size = size_for_area(picture_case["h"], picture_case["w"], picture_case["max_area"])
        errors[f"case{index}.size"] = float(list(size) != picture_case["out"])
        picture = Image.fromarray(case.io[f"case{index}.image_u8_hwc"].numpy())
        pixels = case.io[f"case{index}.pixels_u8_chw"].to(torch.float32) / 255 * 2 - 1
        errors[f"case{index}.pixels"] = relative_error(prepare_picture(picture, *size), pixels)
    return errors
