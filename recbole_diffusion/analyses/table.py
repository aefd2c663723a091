"""The analyses: name, module, one line, and the keys that each takes. Imports none of them."""

from __future__ import annotations

from dataclasses import dataclass

# Keys of the analyses; which of them takes which is in ANALYSES.
OPTIONS: dict[str, str] = {
    "checkpoint": "RUN_FOLDER, whose best epoch is taken, or a checkpoint file",
    "runs": "RUN_FOLDERS, separated by blanks, each with a name of yours where it is given as NAME=RUN_FOLDER",
}


@dataclass(frozen=True)
class Analysis:
    """One analysis.

    Attributes:
        module: holds ``analyse(request) -> Findings``.
        about: one line.
        needs: keys of OPTIONS without which it does nothing.
        takes: further keys of OPTIONS.
        config: whether other keys are keys of a run or an evaluation.
    """

    module: str
    about: str
    needs: tuple[str, ...] = ()
    takes: tuple[str, ...] = ()
    config: bool = True


ANALYSES: dict[str, Analysis] = {}
