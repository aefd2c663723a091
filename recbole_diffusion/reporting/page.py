"""The page: one HTML file with its style, script and numbers inside, written beside the suite's tables.

Nothing is fetched when it is opened, and nothing may be: its content security policy lets its own style and script run,
known by their SHA-256, and refuses everything else, a script that came in by a label included. What it says is made of
the same `ResultTable` objects as the tables' files. The same runs give the same bytes.
"""

from __future__ import annotations

import base64
import hashlib
from functools import lru_cache
from importlib import resources
from pathlib import Path

import jinja2
from markupsafe import Markup

from recbole_diffusion.benchmarking.table_files import write_whole
from recbole_diffusion.errors import UserError
from recbole_diffusion.pictures import COLOURS, DASHES
from recbole_diffusion.reporting.content import page_content
from recbole_diffusion.reporting.suite_report import SuiteReport

REPORT = "report.html"
# Lengths of strokes and gaps in pixels for matplotlib's names of dashes.
_STROKES = {"-": "none", "--": "7 4", ":": "2 3", "-.": "8 3 2 3"}


def write_report(report: SuiteReport, folder: Path) -> Path:
    """Write `<folder>/report.html`, whole or not at all; the file.

    Args:
        report: what it says.
        folder: of the suite; links are relative to it.

    Raises:
        UserError: a metrics.csv that cannot be read, or the page cannot be written.
    """
    path = folder / REPORT
    write_whole(path, render(report, folder).encode("utf-8"))
    return path


def render(report: SuiteReport, folder: Path) -> str:
    """The page as text.

    Args:
        report: what it says.
        folder: that it lies in.

    Raises:
        UserError: a metrics.csv that cannot be read.
    """
    style, script = _part("page.css") + _series_style(), _part("page.js")
    return _template().render(
        **page_content(report, folder),
        style=Markup(style),
        script=Markup(script),
        policy=f"default-src 'none'; style-src '{_digest(style)}'; script-src '{_digest(script)}'; img-src data:; "
        "base-uri 'none'; form-action 'none'",
    )


@lru_cache(maxsize=1)
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.policies["json.dumps_kwargs"] = {"ensure_ascii": False, "separators": (",", ":"), "allow_nan": False}
    return environment.from_string(_part("page.html"))


@lru_cache(maxsize=8)
def _part(name: str) -> str:
    """A file of this folder."""
    try:
        return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"the installation lacks reporting/{name}; install recbole-diffusion again") from error


def _series_style() -> str:
    """A class a colour and a class a kind of dashes, those of every other picture."""
    colours = [f".c{place}{{--colour:{colour}}}" for place, colour in enumerate(COLOURS)]
    dashes = [f".d{place} .curve{{stroke-dasharray:{_STROKES[dash]}}}" for place, dash in enumerate(DASHES)]
    return "\n".join([*colours, *dashes]) + "\n"


def _digest(text: str) -> str:
    """SHA-256 of an inline style or script as a content security policy names it."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode('utf-8')).digest()).decode('ascii')}"
