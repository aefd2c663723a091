"""Table of what in a trained DimeRec ranks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from markdown_tables import number, table


def render_dimerec_parts(raw: Mapping[str, Any], name: str) -> str:
    """Chain beside guidance, and the cosines, one line a run."""
    runs = {key: value for key, value in raw.items() if isinstance(value, Mapping)}
    cuts = ("hit@10", "hit@20", "hit@50")
    rows = []
    for run, found in runs.items():
        chain = [f"{number(100 * found['chain'][cut])} ± {number(100 * found['chain_deviation'][cut])}" for cut in cuts]
        guidance = [number(100 * found["guidance"][cut]) for cut in cuts]
        cosines = [number(found[key], 3) for key in ("seed_cosine", "own_cosine", "item_cosine")]
        rows.append([found.get("label", run), found["split"], *chain, *guidance, *cosines])
    header = ["run", "split", *(f"chain HR{cut[3:]}" for cut in cuts), *(f"guidance HR{cut[3:]}" for cut in cuts)]
    header += ["cosine of two seeds", "cosine to nearest guidance", "cosine of two items"]
    return "\n".join(
        [
            "# What in a trained DimeRec ranks\n",
            "Percent. The chain is the vector that the reverse process ends with, mean and standard deviation over "
            "evaluation seeds; guidance is the same model's K guidance vectors alone, without diffusion. Made by "
            "`benchmarks/dimerec_parts.py`.\n",
            table(header, rows),
            f"Raw file: [{name}.json]({name}.json).\n",
        ]
    )
