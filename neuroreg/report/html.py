"""What all pages share: text that cannot act, templates that escape it, and a policy that lets nothing else run."""

import base64
import hashlib
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

_TEMPLATES = Path(__file__).parent / "templates"
_BREAKS = "\n\t\u2028\u2029"

SYMBOLS: Mapping[str, str] = {"fail": "✕", "look": "▲", "pass": "✓"}
"""Verdicts in black and white."""


def environment() -> Environment:
    """Templates of this folder: text is escaped, a missing name is an error, JSON has no NaN."""
    made = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    return made


def own(name: str) -> str:
    """A script or style of ours."""
    return (_TEMPLATES / name).read_text(encoding="utf-8").strip()


def policy(scripts: Sequence[str], style: str | None) -> str:
    """The Content-Security-Policy of a page: these scripts, this style (None: any, attributes too), pictures inside the
    page, nothing else."""
    allowed = "'unsafe-inline'" if style is None else _source(style)
    return (
        f"default-src 'none'; script-src {' '.join(map(_source, scripts))}; style-src {allowed}; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def _source(text: str) -> str:
    digest = base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")
    return f"'sha256-{digest}'"


def plain(text: object) -> str:
    """Text without control characters, direction overrides and bad bytes; the template escapes the rest."""
    return "".join(
        " " if letter in _BREAKS else "?" if unicodedata.category(letter) in ("Cc", "Cf", "Cs") else letter
        for letter in str(text)
    )
