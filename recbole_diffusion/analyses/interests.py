"""The number of interests K of a multi-interest model (DMI, Table 5)."""

from __future__ import annotations

from recbole_diffusion.analyses.grid import given_values
from recbole_diffusion.analyses.request import Findings, Request
from recbole_diffusion.analyses.sensitivity import vary

KEY = "n_interests"
MODEL = "DMI"
VALUES = (2, 4, 6, 8)  # Table 5


def analyse(request: Request) -> Findings:
    """Vary the number of interests over `values`.

    Raises:
        UserError: the model has no such key, or what `sensitivity` refuses.
    """
    text = request.options.get("values")
    return vary(request, "interests", [KEY], VALUES if text is None else given_values(text), model=MODEL)
