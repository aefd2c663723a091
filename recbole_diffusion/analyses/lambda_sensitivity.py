"""Sensitivity to lambda: what weighs the diffusion in a model, with 0 among the values.

    DiffuRec, DiffuRecSys   z_i = e_i + lambda_i (x_t + d_t), lambda_i ~ N(delta, delta)    DiffuRec, Eq. 13, Figure 3
    DimeRec                 L = L_gem + lambda L_recon + mu L_ssm                           DimeRec, Eq. 23, Table 7
    DMI                     L = L_rec + lambda L_diffusion                                  DMI, Eq. 19, Figure 3

DiffuRec's delta is mean and deviation alike, as in its code; at 0 the history alone predicts and diffusion is off. At a
weight of 0 in DimeRec and DMI the denoiser is trained by the ranking loss alone.
"""

from __future__ import annotations

from recbole_diffusion.analyses.grid import given_values
from recbole_diffusion.analyses.request import Findings, Request
from recbole_diffusion.analyses.sensitivity import vary
from recbole_diffusion.errors import UserError

MODEL = "DiffuRec"
# model -> the keys of its lambda, and values: DiffuRec's figure goes from small ones to 0.1, DimeRec's are those of
# Table 7, DMI's those of section 4.1.
LAMBDA: dict[str, tuple[tuple[str, ...], tuple[float, ...]]] = {
    "DiffuRec": (("lambda_mean", "lambda_std"), (0, 0.0001, 0.001, 0.01, 0.1)),
    "DiffuRecSys": (("lambda_mean", "lambda_std"), (0, 0.0001, 0.001, 0.01, 0.1)),
    "DimeRec": (("reconstruction_weight",), (0, 0.01, 0.1, 1, 10)),
    "DMI": (("reconstruction_weight",), (0, 3, 4, 5, 6, 7)),
}


def analyse(request: Request) -> Findings:
    """Vary a model's lambda over `values`.

    Raises:
        UserError: the model has none, or what `sensitivity` refuses.
    """
    model = request.options.get("model", MODEL)
    if model not in LAMBDA:
        raise UserError(
            f"{model} has no lambda; {', '.join(LAMBDA)} have; vary another key with `analyse sensitivity --vary=KEY`"
        )
    keys, values = LAMBDA[model]
    text = request.options.get("values")
    return vary(request, "lambda", keys, values if text is None else given_values(text), model=model)
