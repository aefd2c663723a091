"""Which contract which model keeps: the one table, with a reason for everything left out.

Every model of this package is in it by being in the table of models, in more than one setting where a key changes its
arithmetic. RecBole's sequential models that need item ids alone are in it too; the others are named with the reason.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from recbole_diffusion.model_table import OUR_MODELS

CONTRACTS: dict[str, str] = {
    "gradients": "one batch gives a finite loss and finite gradients, not zero for any parameter that should have one",
    "overfits": "32 histories are learned: nearly each target comes first among all items by one of its row's vectors",
    "predict": "predict equals the entry of full_sort_predict",
    "padding": "scores do not depend on how far a batch is padded",
    "stored": "saved, loaded into a model that started otherwise: the same scores",
    "batch size": "seeded evaluation: the same scores in one batch, in batches of 7, row by row",
    "bf16": "a finite loss and finite gradients under bfloat16 autocast",
    "one row": "a batch of one history of one item: finite loss and gradients, finite scores",
    "small catalogue": "a catalogue of one item more than there are interests: finite loss, gradients, scores",
    "keys": "every key of the model's YAML is read, every key that is read is in the YAML",
}
OURS_ALONE = ("overfits", "small catalogue", "keys")
"""Contracts of this package's models alone: whether RecBole's learn and read their keys is RecBole's to test."""


@dataclass(frozen=True)
class Case:
    """A model in one setting.

    Attributes:
        model: its name.
        keys: settings beside the tiny sizes.
        left_out: contract -> why the model need not or cannot keep it.
        without_gradient: parameter, a pattern of fnmatch -> why its gradient may be absent or zero.
        label: what tells this setting from others of the model.
    """

    model: str
    keys: Mapping[str, Any] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)
    without_gradient: Mapping[str, str] = field(default_factory=dict)
    label: str = ""

    @property
    def name(self) -> str:
        """For the test's name."""
        return f"{self.model}-{self.label}" if self.label else self.model


# Taken where the model has the key.
TINY: dict[str, Any] = {
    "hidden_size": 16, "n_layers": 1, "n_heads": 2, "n_interests": 3, "num_steps": 8, "n_negatives": 8,
    "denoiser_hidden_sizes": [16], "dropout_prob": 0.0, "embedding_dropout_prob": 0.0,
}  # fmt: skip
# Of every model: MAX_ITEM_LIST_LENGTH and such.
COMMON: dict[str, Any] = {
    "MAX_ITEM_LIST_LENGTH": 8, "use_gpu": False, "show_progress": False, "cache": False, "train_batch_size": 64,
    "topk": [5], "valid_metric": "NDCG@5",
}  # fmt: skip


SETTINGS: dict[str, list[Case]] = {
    "DiffuRec": [
        Case("DiffuRec", {"item_init_std": 0.1}),
        Case("DiffuRec", {"mask_mode": "key", "lambda_mean": 0.3, "lambda_std": 0.3}, label="key mask, strong noise"),
        Case("DiffuRec", {"approximator": "gru", "use_positions": True}, label="gru, positions"),
    ],
    "DiffuRecSys": [
        Case(
            "DiffuRecSys",
            {"n_layers": 2, "item_init_std": 0.1},
            without_gradient={"denoiser.blocks.0.*": "stack: last_only uses the last block alone"},
        ),
        Case(
            "DiffuRecSys",
            {
                "n_layers": 2,
                "stack": "sequential",
                "key_softmax": "standard",
                "mask_mode": "key",
                "lambda_mean": 0.3,
                "lambda_std": 0.3,
                "item_init_std": 0.1,
            },
            label="sequential, standard, key mask, strong noise",
        ),
        Case(
            "DiffuRecSys",
            {"cross_attention_queries": "history", "key_softmax": "seq", "item_init_std": 0.1},
            label="history asks, seq",
        ),
    ],
    "DimeRec": [
        Case("DimeRec"),
        Case(
            "DimeRec",
            {"guidance": "sasrec", "walk_scale": "ddpm_project", "reverse_noise": "sqrt_posterior"},
            label="sasrec, ddpm_project",
        ),
        Case(
            "DimeRec",
            {"guidance": "rule", "guidance_fusion": "attention", "walk_scale": "unit", "loss": "full_softmax"},
            label="rule, attention, unit walk",
        ),
    ],
    "DreamRec": [
        Case(
            "DreamRec",
            left_out={
                "overfits": "its squared error has no negatives and a gradient to the target: at the rate "
                "of this test all items shrink to one point"
            },
        ),
        Case("DreamRec", {"detach_target": True}, label="detached target"),
    ],
    "SASRecCE": [
        Case("SASRecCE"),
        Case("SASRecCE", {"train_positions": "last", "position_order": "from_last"}, label="last, from_last"),
        Case("SASRecCE", {"loss": "chunked", "ce_include_padding": False}, label="chunked"),
    ],
    "Popularity": [
        Case(
            "Popularity",
            left_out={
                "overfits": "it does not read histories",
                "stored": "its scores are counted from the data: two models of one dataset start alike",
            },
        )
    ],
}


def our_cases() -> list[Case]:
    """Every registered model, in the settings above or its defaults."""
    return [case for name in OUR_MODELS for case in SETTINGS.get(name, [Case(name)])]


NOT_AT_ALL: dict[str, str] = {
    "DIN": "predicts labels of given items, not the next one",
    "DIEN": "predicts labels of given items, not the next one",
    "S3Rec": "pre-trains in a procedure of its own",
    "GRU4RecF": "needs item features",
    "SASRecF": "needs item features",
    "FDSA": "needs item features",
    "GRU4RecKG": "needs embeddings of a knowledge graph",
    "KSR": "needs embeddings of a knowledge graph",
}
"""RecBole's sequential models that are in no contract."""

_WIDTH = "its arithmetic depends on the padded width, which is always MAX_ITEM_LIST_LENGTH (data/history_length.py)"
_CPR_LEFT_OUT = {
    "predict": "RecBole's code cannot score single items: its predict returns None",
    "bf16": "RecBole's code scatters numbers of one type into another",
    "padding": _WIDTH,
}
_CPR_UNUSED = dict.fromkeys(("project_emb.*",), "RecBole's code makes a map that these settings do not use")


def _recbole(
    model: str,
    *sizes: str,
    left_out: Mapping[str, str] | None = None,
    without_gradient: Mapping[str, str] | None = None,
    **keys: Any,
) -> Case:
    """A case of RecBole with the named sizes small."""
    return Case(model, {**dict.fromkeys(sizes, 16), **keys}, left_out or {}, without_gradient or {})


_EMBEDDING, _HIDDEN = ("embedding_size",), ("embedding_size", "hidden_size")
_TRANSFORMER = ("hidden_size", "inner_size")
_CE: dict[str, Any] = {"loss_type": "CE"}

RECBOLE: list[Case] = [
    _recbole("BERT4Rec", *_TRANSFORMER),
    _recbole("Caser", *_EMBEDDING, **_CE, left_out={"padding": _WIDTH}),
    _recbole(
        "CORE", "embedding_size", "inner_size", **_CE,
        left_out={"predict": "RecBole's predict takes items as they are, its full_sort_predict their unit vectors"},
    ),
    _recbole("FEARec", *_TRANSFORMER, **_CE, left_out={"padding": _WIDTH}),
    _recbole("FOSSIL", *_EMBEDDING, **_CE, left_out={"padding": _WIDTH}),
    _recbole("FPMC", *_EMBEDDING),
    _recbole("GCSAN", *_TRANSFORMER, **_CE),
    _recbole("GRU4Rec", *_HIDDEN, **_CE),
    _recbole("GRU4RecCPR", *_HIDDEN, reranker_CAN_NUM=10, left_out=_CPR_LEFT_OUT, without_gradient=_CPR_UNUSED),
    _recbole("HGN", *_EMBEDDING, **_CE, left_out={"padding": _WIDTH}),
    _recbole("HRM", *_EMBEDDING, **_CE),
    _recbole("LightSANs", *_TRANSFORMER, **_CE, left_out={"padding": _WIDTH}),
    _recbole("NARM", *_HIDDEN, **_CE),
    _recbole(
        "NPE", *_EMBEDDING, **_CE, left_out={"padding": _WIDTH},
        without_gradient={"embedding_seq_item.weight": "RecBole's code makes this table and never reads it"},
    ),
    _recbole("NextItNet", *_EMBEDDING, **_CE, left_out={"padding": _WIDTH}),
    _recbole(
        "RepeatNet", *_HIDDEN,
        left_out={"padding": _WIDTH, "bf16": "RecBole's code scatters numbers of one type into another"},
        without_gradient=dict.fromkeys(
            ("*.Ve.bias", "*.Vr.bias", "*.Vre.bias"), "a constant before a softmax: zero, but for rounding"
        ),
    ),
    _recbole("SASRec", *_TRANSFORMER, **_CE),
    _recbole("SASRecCPR", *_TRANSFORMER, reranker_CAN_NUM=10, left_out=_CPR_LEFT_OUT, without_gradient=_CPR_UNUSED),
    _recbole(
        "SHAN", *_EMBEDDING, **_CE,
        left_out={"padding": _WIDTH, "predict": "RecBole's predict reverses histories, full_sort_predict does not"},
    ),
    _recbole("SINE", *_EMBEDDING, **_CE, left_out={"padding": _WIDTH}),
    _recbole("SRGNN", *_EMBEDDING, **_CE),
    _recbole("STAMP", *_EMBEDDING, **_CE),
    _recbole("TransRec", *_EMBEDDING),
]  # fmt: skip
