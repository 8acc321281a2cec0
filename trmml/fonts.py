"""Fonts for pictures: Pillow's own for plain text, one of the system's for what that does not have."""

import contextlib
from functools import cache, lru_cache

from PIL import Image, ImageDraw, ImageFont

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

# Usual ones of Linux, macOS and Windows, of many scripts before those of one.
_NAMES = (
    *("DejaVuSans", "NotoSans-Regular", "NotoSansCJK-Regular", "Arial Unicode"),
    *("arial", "msyh", "malgun", "YuGothR", "Nirmala", "FreeSans"),
)
_NOWHERE = "\U0010ffff"  # no character, so its picture is that of a missing one


@lru_cache(maxsize=1024)
def font_for(text: str, size: int) -> Font:
    """Return the font that has the most characters of a text; Pillow's own where none has more."""
    own = ImageFont.load_default(size)
    if text.isascii():
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
    return _drawn(font, character) != _drawn(font, _NOWHERE)


def _drawn(font: Font, character: str) -> bytes:
    picture = Image.new("L", (64, 64))
    ImageDraw.Draw(picture).text((16, 16), character, 255, font)
    return picture.tobytes()
