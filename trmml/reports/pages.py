"""HTML pages that open without a network: one way to render them, photos inside."""

import base64
import io
from pathlib import Path
from typing import Any

import jinja2
from PIL import Image


def render_page(template: Path, **values: Any) -> str:
    """Fill in a template; whatever is put in is shown as text, since label names are anybody's."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(template.parent),
        autoescape=True,  # names of labels and photos could hold a script
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template.name).render(values)


def thumbnail_url(photo: Image.Image, width: int, height: int) -> str:
    """Return a small JPEG of a photo as an address that holds the picture itself."""
    picture = photo.copy()
    picture.thumbnail((width, height))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=82)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
