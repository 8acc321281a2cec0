"""HTML that opens without a network: one way to render it, photos inside.

Whole pages, and what a notebook shows of an object (`_repr_html_`). The latter has no script and no
style sheet, since a notebook that is opened elsewhere lets neither through: styles stand at the elements
(`notebook.html.jinja`), in colours that can be read on light and on dark paper.
"""

import base64
import io
from pathlib import Path
from typing import Any

import jinja2
from PIL import Image

_HERE = Path(__file__).parent


def render_page(template: Path, **values: Any) -> str:
    """Fill in a template; whatever is put in is shown as text, since label names are anybody's.

    Args:
        template: A file; it may import the macros of the files beside this module.
        values: What it names.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([template.parent, _HERE]),
        autoescape=True,  # names of labels and photos could hold a script
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template(template.name).render(values)
    return page.encode(errors="replace").decode()  # names of files need not be UTF-8


def thumbnail_url(photo: Image.Image, width: int, height: int) -> str:
    """Return a small JPEG of a photo as an address that holds the picture itself."""
    picture = photo.copy()
    picture.thumbnail((width, height))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=82)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
