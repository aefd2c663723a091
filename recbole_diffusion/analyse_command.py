"""The word ``analyse`` of the command line: which analysis, its keys, and what it prints."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path

from recbole_diffusion.analyses.table import ANALYSES
from recbole_diffusion.analyses.table import OPTIONS as OWN_OPTIONS
from recbole_diffusion.config_files import Overrides, parse_value
from recbole_diffusion.errors import UserError
from recbole_diffusion.registry import nearest

OPTIONS: dict[str, str] = {
    "analysis": "NAME of the analysis; also given without its key",
    "output": "FOLDER for pictures and numbers (default: analyses/NAME)",
    "data_path": "FOLDER that holds the datasets' folders (default: that of the run, or dataset)",
    **{
        key: f"{about} ({', '.join(name for name, row in ANALYSES.items() if key in (*row.needs, *row.takes))})"
        for key, about in OWN_OPTIONS.items()
    },
}
FLAGS: dict[str, str] = {}
BARE = ()
POSITIONAL = "analysis"  # the option that stands without its key
USAGE = "NAME"
WRITES = "writes a picture (PNG and SVG) and its numbers (CSV) into a folder"
EXAMPLES = "\n".join(
    ["analyses:", *(f"  {name:<{max(map(len, ANALYSES), default=0)}}  {row.about}" for name, row in ANALYSES.items())]
)


def run(options: Mapping[str, str], flags: set[str], config: Overrides) -> str:
    """Make an analysis, and return the text to print.

    Args:
        options: keys of :data:`OPTIONS` with their values.
        flags: none.
        config: keys of a run or an evaluation.

    Raises:
        UserError: no such analysis, a key is missing or not its, what the analysis refuses.
    """
    name = options.get("analysis")
    if name not in ANALYSES:
        hint = nearest(name or "", ANALYSES)
        raise UserError(
            f"no analysis '{name}'" * (name is not None)
            + "analyse needs the NAME of an analysis" * (name is None)
            + (f"; did you mean '{hint}'?" if hint else f"; there are {', '.join(ANALYSES)}")
        )
    analysis = ANALYSES[name]
    own = (*analysis.needs, *analysis.takes)
    for key in analysis.needs:
        if key not in options:
            raise UserError(f"{name} needs --{key}={OWN_OPTIONS[key].split()[0].rstrip(',')}")
    for key in [key for key in options if key in OWN_OPTIONS and key not in own]:
        if not analysis.config:
            raise UserError(f"--{key} does not go with {name}, which takes {', '.join(own)}")
        config[key] = parse_value(options[key])  # a key of another analysis may be one of a run or an evaluation
    if config and not analysis.config:
        key = next(iter(config))
        hint = nearest(key, [*own, "output", "data_path"])
        raise UserError(
            f"unknown key '{key}' of {name}; " + (f"did you mean '{hint}'?" if hint else f"it takes {', '.join(own)}")
        )
    from recbole_diffusion.analyses.request import Request
    from recbole_diffusion.command_options import messages
    from recbole_diffusion.pictures import check_matplotlib

    check_matplotlib()
    output = Path(options.get("output", f"analyses/{name}"))
    made = [folder for folder in (output, *output.parents) if not folder.exists()]
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the folder {output} ({error.strerror}); change --output") from error
    request = Request(options, config, output, options.get("data_path"))
    with messages(True):
        try:
            findings = import_module(f"recbole_diffusion.analyses.{analysis.module}").analyse(request)
        except UserError:
            with contextlib.suppress(OSError):  # a folder that holds something stays
                for folder in made:
                    folder.rmdir()
            raise
    return "\n".join([findings.text.rstrip("\n"), *(f"written: {path}" for path in findings.files)])
