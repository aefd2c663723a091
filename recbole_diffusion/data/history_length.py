"""Which models take histories as wide as the longest of the batch, and which need `MAX_ITEM_LIST_LENGTH` columns.

A model whose weights or arithmetic depend on the padded width (a convolution over it, a Fourier transform, one weight a
position, attention to padding) needs every batch alike. A model of this package, or a user's own, says so with the
class attribute ``fixed_width``; a foreign class without it gets fixed width, which is what RecBole gives. Of RecBole's
models those listed here do without: a test compares their losses at both widths.
"""

from __future__ import annotations

TRIMMED_RECBOLE_MODELS: frozenset[str] = frozenset(
    {
        "BERT4Rec",
        "FPMC",
        "GCSAN",
        "GRU4Rec",
        "HRM",
        "NARM",
        "SASRec",
        "SRGNN",
        "STAMP",
        "TransRec",
    }
)


def needs_fixed_width(model_class: type) -> bool:
    """Whether every batch of this model must be `MAX_ITEM_LIST_LENGTH` wide."""
    own: bool | None = getattr(model_class, "fixed_width", None)
    if own is not None:
        return own
    return not (model_class.__module__.startswith("recbole.") and model_class.__name__ in TRIMMED_RECBOLE_MODELS)


def reads_examples(model_class: type) -> bool:
    """Whether a model looks single examples up in ``dataset.inter_feat`` while it trains, as RecBole's FEARec does.

    Its training examples are then written out when it first does, as RecBole holds them; gathering all of a column for
    every look would take minutes a batch. A model of a user's own says so with the attribute ``reads_examples``.
    """
    return bool(getattr(model_class, "reads_examples", model_class.__name__ == "FEARec"))
