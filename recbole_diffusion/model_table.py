"""The table of this package's models: name, class, paper, protocol of the paper, one line. Nothing here is imported.

`--list_models` prints it, `registry.resolve_model` looks names up in it. A new model is a row here, a class in
`models/`, and `properties/model/<name>.yaml`.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class OurModel:
    """One row: what a model is, without importing it.

    Attributes:
        name: what `--model` takes, the name of the class.
        module: the file in `models/` that holds the class, without `.py`.
        paper: authors' short form, venue and year, arXiv number where there is one.
        protocol: how the paper (or the comparison it comes from) splits; a value of the key `protocol`. The default is
            `leave_one_out` for every model; `--preset=paper` takes the paper's.
        about: one line.
    """

    name: str
    module: str
    paper: str
    protocol: str
    about: str

    def load(self) -> Any:
        """Import the model's module (and torch) and return the class."""
        return getattr(importlib.import_module(f"recbole_diffusion.models.{self.module}"), self.name)


_ROWS = (
    OurModel(
        "DiffuRec",
        "diffurec",
        "Li et al., TOIS 2023",
        "leave_one_out",
        "noises the target, mixes it into the history, a Transformer restores it",
    ),
    OurModel(
        "DiffuRecSys",
        "diffurecsys",
        "Zolghadr et al., ROEGEN@RecSys 2024",
        "leave_one_out",
        "DiffuRec with efficient cross-attention, offset noise and averaged seeds",
    ),
    OurModel(
        "DimeRec",
        "dimerec",
        "Li et al., WSDM 2025",
        "user_split_next",
        "interests guide a diffusion that walks on the sphere of unit vectors",
    ),
    OurModel(
        "DMI",
        "dmi",
        "Le et al., arXiv 2502.05561",
        "user_split_multi",
        "diffuses each of K interests, denoised by attention to the pruned history",
    ),
    OurModel(
        "DreamRec",
        "dreamrec",
        "Yang et al., NeurIPS 2023",
        "user_split_next",
        "generates the next item's vector by classifier-free guidance of the history",
    ),
    OurModel(
        "ComiRecSA",
        "comirec_sa",
        "Cen et al., KDD 2020",
        "user_split_multi",
        "K interests by self-attention over the history",
    ),
    OurModel(
        "ComiRecDR",
        "comirec_dr",
        "Cen et al., KDD 2020",
        "user_split_multi",
        "K interests by dynamic routing of capsules",
    ),
    OurModel(
        "MIND",
        "mind",
        "Li et al., CIKM 2019",
        "user_split_multi",
        "K interests by routing with one shared map, label-aware attention",
    ),
    OurModel(
        "REMI",
        "remi",
        "Xie et al., RecSys 2023",
        "user_split_multi",
        "ComiRecSA with hard negatives weighted up and routing regularised",
    ),
    OurModel(
        "YouTubeDNN",
        "youtubednn",
        "Covington et al., RecSys 2016",
        "user_split_multi",
        "the mean of the history, sampled softmax",
    ),
    OurModel(
        "SASRecCE",
        "sasrec_ce",
        "Klenitskiy, Vasilev, RecSys 2023",
        "leave_one_out",
        "SASRec's causal Transformer, cross-entropy over all items",
    ),
    OurModel(
        "SASRecSampled",
        "sasrec_sampled",
        "Klenitskiy, Vasilev, RecSys 2023",
        "leave_one_out",
        "SASRec's causal Transformer, softmax over sampled negatives",
    ),
    OurModel(
        "gSASRec",
        "gsasrec",
        "Petrov, Macdonald, RecSys 2023",
        "leave_one_out",
        "SASRec with many negatives and the generalised binary cross-entropy",
    ),
    OurModel(
        "Popularity",
        "popularity",
        "baseline",
        "leave_one_out",
        "the items most often asked for in training, the same for everybody",
    ),
)


OUR_MODELS: dict[str, OurModel] = {row.name: row for row in _ROWS}
