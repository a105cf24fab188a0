"""Any picture an operator may have -> an upright RGB PNG of a sane size."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from liveavatar.core.errors import Diagnosis, InputRejected
from liveavatar.core.note import Note

MAX_SIDE = 4096  # pixels kept; no engine uses more
MAX_MEGAPIXELS = 80
MIN_SIDE = 64

_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "AVIF")
_BACKDROP = (226, 228, 232)  # behind transparent portraits: a light studio grey
_EXIF_ORIENTATION = 0x0112

_FIRST_FRAME = Note(code="first_frame", text="The picture has several frames; the first one is used.")
_TURNED = Note(code="turned_upright", text="The picture was turned upright, as its camera recorded.")
_FILLED = Note(
    code="background_filled", text="The transparent parts of the picture were filled with light grey."
)

Image.MAX_IMAGE_PIXELS = None  # the limit above, with its own sentence, comes before any decoding


def import_image(source: Path, target: Path) -> list[Note]:
    """Write the picture as an upright RGB PNG and return one note per change worth telling.

    Raises InputRejected when it is missing, unreadable, too small or too large.
    """
    notes: list[Note] = []
    with _open(source) as image:
        _check_size(image)
        if getattr(image, "n_frames", 1) > 1:
            notes.append(_FIRST_FRAME)
        if image.getexif().get(_EXIF_ORIENTATION, 1) != 1:
            notes.append(_TURNED)
        try:
            upright = _decode(image)
            if _is_see_through(image):
                notes.append(_FILLED)
        except (OSError, ValueError, SyntaxError) as error:
            raise _unreadable(source, f"It is damaged or incomplete ({error}).") from error
    upright.thumbnail((MAX_SIDE, MAX_SIDE), Image.Resampling.LANCZOS)
    upright.save(target, compress_level=1)
    return notes


def write_poster(source: Path, target: Path, *, width: int = 320) -> None:
    """Write a small JPEG of a picture, for lists."""
    with Image.open(source) as image:
        poster = image.convert("RGB")
        poster.thumbnail((width, width * 2), Image.Resampling.LANCZOS)
        poster.save(target, quality=85)


def _open(source: Path) -> Image.Image:
    if not source.is_file():
        raise InputRejected(
            Diagnosis(
                code="missing_picture",
                title="There is no portrait.",
                cause=f"The file “{source.name}” does not exist."
                if source.name
                else "The face in it is what moves.",
                remedy="Add a picture of a face.",
            )
        )
    try:
        return Image.open(source, formats=_FORMATS)  # reads the header only
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError) as error:
        raise _unreadable(source, "It is not a picture, or it is damaged.") from error


def _decode(image: Image.Image) -> Image.Image:
    """Return the pixels upright, in sRGB, on an opaque ground."""
    image.draft("RGB", (MAX_SIDE, MAX_SIDE))  # lets JPEG decode huge pictures at a fraction of the size
    profile = image.info.get("icc_profile")
    rgb = _to_rgb(ImageOps.exif_transpose(image))
    return _to_srgb(rgb, profile) if profile else rgb


def _check_size(image: Image.Image) -> None:
    megapixels = image.width * image.height / 1_000_000
    if megapixels > MAX_MEGAPIXELS:
        raise InputRejected(
            Diagnosis(
                code="picture_too_large",
                title=f"The picture has {image.width} x {image.height} pixels ({megapixels:.0f} megapixels).",
                cause=f"Up to {MAX_MEGAPIXELS} megapixels are read; a video frame shows less than one.",
                remedy="Save a smaller copy, for example 2000 pixels wide, and add that.",
                facts={"width": image.width, "height": image.height, "most_megapixels": MAX_MEGAPIXELS},
            )
        )
    if min(image.size) < MIN_SIDE:
        raise InputRejected(
            Diagnosis(
                code="picture_too_small",
                title=f"The picture is only {image.width} x {image.height} pixels.",
                cause=f"A face needs at least {MIN_SIDE} pixels in each direction; 400 or more look good.",
                remedy="Choose a larger picture.",
                facts={"width": image.width, "height": image.height, "least": MIN_SIDE},
            )
        )


def _is_see_through(image: Image.Image) -> bool:
    """Return whether any pixel is; webcams and screen shots give an alpha channel of nothing but 255."""
    if not image.has_transparency_data:
        return False
    lowest, _ = image.convert("RGBA").getchannel("A").getextrema()
    return float(lowest) < 255  # type: ignore[arg-type]


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":  # 16-bit and float greys would be clipped to white
        low, high = image.convert("F").getextrema()
        span = max(float(high) - float(low), 1e-9)  # type: ignore[arg-type]
        return image.convert("F").point(lambda value: (value - float(low)) * (255.0 / span)).convert("RGB")  # type: ignore[arg-type]
    if not image.has_transparency_data:
        return image.convert("RGB")
    layer = image.convert("RGBA")
    backdrop = Image.new("RGBA", layer.size, (*_BACKDROP, 255))
    return Image.alpha_composite(backdrop, layer).convert("RGB")


def _to_srgb(image: Image.Image, profile: bytes) -> Image.Image:
    try:
        converted = ImageCms.profileToProfile(
            image, ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB")
        )
    except (ImageCms.PyCMSError, OSError):
        return image  # a broken or foreign profile: the plain values are the best guess
    return converted or image


def _unreadable(source: Path, cause: str) -> InputRejected:
    return InputRejected(
        Diagnosis(
            code="unreadable_picture",
            title=f"The picture “{source.name}” cannot be read.",
            cause=cause,
            remedy="Save it as JPEG, PNG or WebP and add it again.",
            facts={"name": source.name},
        )
    )
