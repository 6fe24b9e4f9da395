"""The small picture that a report carries in its head, believed only after a look at it."""

import base64
import io
import re
import warnings
from html.parser import HTMLParser
from pathlib import Path

from PIL import Image

META = "neuroreg:thumbnail"
"""Name of the <meta> whose content is the picture."""

MAX_LETTERS = 16_000
"""Of one data URI; about 12 kB of picture. The reports' own are 3 kB."""

_HEAD_BYTES = 262_144
_MAX_SIDE = 512  # pixels; a few bytes can unfold into a picture that fills the memory
_URI = re.compile(r"data:image/(jpeg|png|webp);base64,([A-Za-z0-9+/]+={0,2})")


def read_thumbnail(report: Path) -> str | None:
    """The picture of a ``report.html`` as a data URI; None where there is none, or none that can be trusted."""
    try:
        if not report.is_file():
            return None
        with report.open("rb") as stream:
            start = stream.read(_HEAD_BYTES)
    except OSError:
        return None
    head, _, _ = start.decode("utf-8", "replace").partition("</head>")
    found = _Meta()
    found.feed(head)
    return found.content if found.content is not None and is_small_image(found.content) else None


def is_small_image(uri: str) -> bool:
    """Whether ``uri`` is a JPEG, PNG or WebP of modest size, named as what it is, and nothing else."""
    match = _URI.fullmatch(uri) if len(uri) <= MAX_LETTERS else None
    if match is None:
        return False
    try:
        content = io.BytesIO(base64.b64decode(match[2], validate=True))
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(content, formats=[match[1].upper()]) as image:
                return 0 < max(image.size) <= _MAX_SIDE
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError, Image.DecompressionBombWarning):
        return False


class _Meta(HTMLParser):
    """Takes the first <meta> of that name."""

    content: str | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        if tag == "meta" and attributes.get("name") == META and self.content is None:
            self.content = attributes.get("content")
