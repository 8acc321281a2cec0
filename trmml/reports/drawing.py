"""Pictures: heatmaps over a photo (no segmentation), contact sheets, and fonts for any script."""

import contextlib
from collections.abc import Sequence
from functools import cache, lru_cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from PIL import Image, ImageDraw, ImageFont

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

OPACITY = 0.65
SMALLEST_SIDE = 320
"""Overlays of smaller photos are enlarged to this, or their text could not be read."""
LARGEST_SIDE = 640
"""Panels of a contact sheet are no larger than this."""
# Anchor colours of the scale, from no evidence to the most: perceptually ordered, readable in grey.
_COLOURS = np.array(
    [[0, 0, 4], [81, 18, 124], [183, 55, 121], [252, 137, 97], [252, 253, 191]], dtype=np.float32
)
PAPER, INK, QUIET = (255, 255, 255), (20, 20, 20), (110, 110, 110)
# Usual ones of Linux, macOS and Windows, of many scripts before those of one.
_NAMES = (
    *("DejaVuSans", "NotoSans-Regular", "NotoSansCJK-Regular", "Arial Unicode"),
    *("arial", "msyh", "malgun", "YuGothR", "Nirmala", "FreeSans"),
)
_NOWHERE = "\U0010ffff"  # no character, so its picture is that of a missing one


class Panel(NamedTuple):
    """A picture of a contact sheet, its caption, a value at the right, and maybe the colour scale."""

    picture: Image.Image
    caption: str
    value: str = ""
    has_scale: bool = True


def shrunk(photo: Image.Image) -> Image.Image:
    """Return a photo no larger than a panel, so that what is drawn costs the same for any photo."""
    scale = LARGEST_SIDE / max(photo.size)
    if scale >= 1:
        return photo
    width, height = (max(round(side * scale), 1) for side in photo.size)
    return photo.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=2)


def heatmap(
    evidence: Float[np.ndarray, "row column"], width: int, height: int
) -> Float[np.ndarray, "height width"]:
    """Enlarge evidence to the photo's size and scale it to [0, 1]; what speaks against is 0.

    Args:
        evidence: Over the grid of patches.
        width: Of the photo, in pixels.
        height: Of the photo, in pixels.
    """
    grid = Image.fromarray(np.ascontiguousarray(evidence, dtype=np.float32).clip(0))
    # Bicubic interpolation swings below zero beside a peak, so it is cut off once more.
    enlarged = np.asarray(grid.resize((width, height), Image.Resampling.BICUBIC)).clip(0)
    lowest, highest = float(enlarged.min()), float(enlarged.max())
    if highest <= lowest:
        return np.zeros_like(enlarged)
    return (enlarged - lowest) / (highest - lowest)


def overlay(photo: Image.Image, heat: Float[np.ndarray, "height width"]) -> Image.Image:
    """Lay a heatmap over a photo: the more evidence, the more colour."""
    opacity = OPACITY * heat[..., None]
    picture = np.asarray(photo.convert("RGB"), dtype=np.float32)
    mixed = picture * (1 - opacity) + _colours_of(heat) * opacity
    return Image.fromarray(mixed.round().clip(0, 255).astype(np.uint8))


def captioned(picture: Image.Image, caption: str, value: str = "") -> Image.Image:
    """Put an overlay above its label, its score and a colour scale, large enough to read."""
    width, height = picture.size
    factor = max(1.0, SMALLEST_SIDE / max(width, height))
    return contact_sheet([Panel(picture, caption, value)], max(width, height) * factor, columns=1)


def contact_sheet(
    panels: Sequence[Panel], side: float = SMALLEST_SIDE, *, columns: int | None = None
) -> Image.Image:
    """Arrange pictures of one photo in a grid, each above its caption.

    Args:
        panels: Pictures of the same size, with captions.
        side: Longer side of a picture, in pixels; at most 640 are used.
        columns: How many stand beside each other; by default nearly as many as below each other.
    """
    columns = columns or min(len(panels), max(2, round(len(panels) ** 0.5)))
    width, height = panels[0].picture.size
    scale = min(side, LARGEST_SIDE) / max(width, height)
    size = (max(round(width * scale), 96), max(round(height * scale), 1))
    gap, band = 12, 46  # a band holds a caption and the scale below it
    rows = -(-len(panels) // columns)
    cell = (size[0] + gap, size[1] + band + gap)
    sheet = Image.new("RGB", (columns * cell[0] + gap, rows * cell[1] + gap), PAPER)
    draw = ImageDraw.Draw(sheet)
    for i, panel in enumerate(panels):
        left, top = gap + i % columns * cell[0], gap + i // columns * cell[1]
        sheet.paste(panel.picture.resize(size, Image.Resampling.BICUBIC), (left, top))
        below, font = top + size[1] + 4, font_for(panel.caption + panel.value, 17)
        room = size[0] - font.getlength(panel.value) - (8 if panel.value else 0)
        draw.text((left, below), _fitting(panel.caption, room, font), INK, font)
        draw.text((left + size[0], below), panel.value, INK, font, "ra")
        if panel.has_scale:
            _draw_scale(sheet, left, top + size[1] + 28, size[0])
    return sheet


def _draw_scale(sheet: Image.Image, left: int, top: int, width: int) -> None:
    """Draw the colour scale with its ends named."""
    less, more = "less", "more evidence"
    draw, font = ImageDraw.Draw(sheet), font_for(less + more, 11)
    start = left + round(font.getlength(less)) + 6
    end = max(start + 8, left + width - round(font.getlength(more)) - 6)
    colours = _colours_of(np.linspace(0, 1, end - start, dtype=np.float32)[None].repeat(8, axis=0))
    sheet.paste(Image.fromarray(colours.round().astype(np.uint8)), (start, top + 4))
    draw.text((left, top), less, QUIET, font)
    draw.text((end + 6, top), more, QUIET, font)


def _colours_of(heat: Float[np.ndarray, "height width"]) -> Float[np.ndarray, "height width 3"]:
    """Return colours of values in [0, 1], linear between the anchors of the scale."""
    places = heat * (len(_COLOURS) - 1)
    low = np.floor(places).astype(int).clip(0, len(_COLOURS) - 2)
    part = (places - low)[..., None]
    return _COLOURS[low] * (1 - part) + _COLOURS[low + 1] * part


def _fitting(text: str, width: float, font: Font) -> str:
    """Shorten a caption to the room that it has."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"


@lru_cache(maxsize=1024)
def font_for(text: str, size: int) -> Font:
    """Return the font that has the most characters of a text; Pillow's own where none has more."""
    own = ImageFont.load_default(size)
    if text.isascii():  # the same picture on every machine, and nothing to search
        return own
    others = (_system_font(name, size) for name in _NAMES)
    fonts = [own, *(font for font in others if font is not None)]
    return max(fonts, key=lambda font: sum(_has(font, character) for character in text))


@cache
def _system_font(name: str, size: int) -> Font | None:
    with contextlib.suppress(OSError):
        return ImageFont.truetype(name, size)
    return None


def _has(font: Font, character: str) -> bool:
    # Pillow does not say which characters a font has; a missing one is drawn as an empty box.
    return _drawn(font, character) != _drawn(font, _NOWHERE)


def _drawn(font: Font, character: str) -> bytes:
    picture = Image.new("L", (64, 64))
    ImageDraw.Draw(picture).text((16, 16), character, 255, font)
    return picture.tobytes()
