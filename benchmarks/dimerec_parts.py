"""What in a trained DimeRec ranks: its reverse chain, its guidance alone, and how much the chain's noise decides.

    python benchmarks/dimerec_parts.py RUN [RUN ...] [--seeds=5] [--split=test] [--data_path=FOLDER] [--key=value ...]

For each run's best epoch, over the rows of a split:

  chain          HR@k and NDCG@k of e_u, mean and standard deviation over evaluation seeds
  guidance       the same of the guidance vectors alone, the best of K (`rank_by: guidance`)
  steps          with --steps=1,5,20: the chain cut after so many steps (Figure 5)
  seed cosine    mean cosine of a row's e_u between two seeds: 1 means that the noise is inert
  own cosine     mean cosine of e_u and the guidance vector nearest to it
  item cosine    mean cosine of two different items: near 1 the table has collapsed

A chain below its own guidance adds nothing. Keys override those of the run (`--reverse_noise=none`). Prints a Markdown
table; with --json=FILE all numbers are written there too.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import math
import statistics
import sys
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
from recbole.data.interaction import Interaction
from torch import Tensor
from torch.nn import functional

from recbole_diffusion.config import RunConfig
from recbole_diffusion.data.loading import prepare_loaders
from recbole_diffusion.data.reading import checked_dataset
from recbole_diffusion.diffusion.sampler import ReverseSampler
from recbole_diffusion.errors import UserError
from recbole_diffusion.evaluation.ranking import rank_by_vectors
from recbole_diffusion.models.base import EVALUATION_ROW, relevance
from recbole_diffusion.models.dimerec import DimeRec
from recbole_diffusion.registry import resolve_model
from recbole_diffusion.training.checkpoint import load_model, read_checkpoint
from recbole_diffusion.training.run_folder import RunFolder

MEMORY = 256 * 2**20


def trained(run: Path, keys: dict[str, Any]) -> tuple[DimeRec, dict[str, Any]]:
    """The best epoch of a run under its own keys and these, and its loaders by split."""
    path = RunFolder.open(run).best if run.is_dir() else run
    stored = read_checkpoint(path)
    values = dict(stored.facts["config"])
    model_name, dataset_name = values.pop("model"), values.pop("dataset")
    for name in ("use_gpu", "gpu_id"):
        values.pop(name, None)
    config = RunConfig(model_name, dataset_name, (), {**values, **keys})
    entry = resolve_model(model_name)
    if not issubclass(entry.model_class, DimeRec):
        raise SystemExit(f"{run} is a run of {model_name}, which has no guidance to compare with")
    train, valid, test = prepare_loaders(config, checked_dataset(entry.dataset_class)(config))
    model = entry.model_class(config, train._dataset).to(config["device"])
    load_model(model, stored, path)
    return model.eval(), {"valid": valid, "test": test}


def batches(loader: Any, device: torch.device) -> Iterator[tuple[Interaction, Any, Tensor, Tensor]]:
    """Each batch with its rows' numbers, what is not to be ranked, and (row, item) of its targets."""
    first = 0
    for interaction, seen, row, item in loader:
        interaction.update(Interaction({EVALUATION_ROW: first + torch.arange(len(interaction))}))
        first += len(interaction)
        yield interaction.to(device), seen, row.cpu(), item.cpu()


@dataclasses.dataclass
class Hits:
    """Sums of HR@k and NDCG@k over rows; a row hits with any of its targets, its NDCG is that of its best one."""

    cutoffs: tuple[int, ...]
    rows: int = 0
    sums: dict[str, float] = dataclasses.field(default_factory=dict)

    def add(self, users: Tensor, batch: tuple[Interaction, Any, Tensor, Tensor], model: DimeRec) -> None:
        """Rank all items for users (B, K, D)."""
        _, seen, row, item = batch
        score = functools.partial(relevance, score=model.options.score)
        options = {"memory": MEMORY, "seen": seen}
        best = rank_by_vectors(users, model.item_vectors(), score, max(self.cutoffs), **options).items
        hit = torch.zeros(best.shape, dtype=torch.bool)
        hit.index_put_((row,), torch.from_numpy(best).long()[row] == item[:, None], accumulate=True)
        place = torch.where(hit.any(1), hit.int().argmax(1), best.shape[1])
        self.rows += len(users)
        for k in self.cutoffs:
            inside = place[place < k].double()
            for name, value in (
                (f"hit@{k}", float(len(inside))),
                (f"ndcg@{k}", float((1 / (inside + 2).log2()).sum())),
            ):
                self.sums[name] = self.sums.get(name, 0.0) + value

    def means(self) -> dict[str, float]:
        """Metric -> mean over rows."""
        return {name: value / max(1, self.rows) for name, value in self.sums.items()}


def item_cosine(table: Tensor) -> float:
    """Mean cosine of two different items of a table (V, D), padding left out: (|sum of units|^2 - V) / (V (V - 1))."""
    unit = functional.normalize(table[1:].double(), dim=1)
    count = len(unit)
    return float((unit.sum(0).square().sum() - count) / (count * (count - 1)))


@torch.no_grad()
def parts(
    model: DimeRec, loader: Any, seeds: list[int], cutoffs: tuple[int, ...] = (10, 20, 50), steps: tuple[int, ...] = ()
) -> dict[str, Any]:
    """All figures of one model over one loader.

    Args:
        model: in evaluation mode.
        loader: an evaluation loader.
        seeds: evaluation seeds, one chain each.
        cutoffs: k of the metrics.
        steps: numbers of reverse steps after which the chain is cut, with the first seed.
    """
    options, sampler = model.options, model.sampler
    chains, guidance = [Hits(cutoffs) for _ in seeds], Hits(cutoffs)
    cut = {step: Hits(cutoffs) for step in steps}
    seed_cosine = own_cosine = 0.0
    for batch in batches(loader, next(model.parameters()).device):
        interaction = batch[0]
        vectors = model.guidance_vectors(interaction)
        guidance.add(vectors, batch, model)
        drawn = []
        for seed, hits in zip(seeds, chains, strict=True):
            model.options = dataclasses.replace(options, eval_seed=seed, rank_by="chain")
            drawn.append(model.user_vectors(interaction))
            hits.add(drawn[-1], batch, model)
        model.options = dataclasses.replace(options, eval_seed=seeds[0], rank_by="chain")
        for step, hits in cut.items():
            model.sampler = ReverseSampler(
                model.process,
                options.reverse_steps,
                options.reverse_eta,
                stop_after=step,
                early_result=options.intermediate_result,
            )
            hits.add(model.user_vectors(interaction), batch, model)
        model.options, model.sampler = options, sampler
        pairs = [functional.cosine_similarity(a[:, 0], b[:, 0]).sum().item() for a, b in combinations(drawn, 2)]
        seed_cosine += statistics.mean(pairs) if pairs else math.nan
        own_cosine += functional.cosine_similarity(drawn[0], vectors, dim=-1).amax(1).sum().item()
    runs = [hits.means() for hits in chains]
    return {
        "rows": guidance.rows,
        "seeds": seeds,
        "chain": {name: statistics.mean(run[name] for run in runs) for name in runs[0]},
        "chain_deviation": {name: statistics.pstdev([run[name] for run in runs]) for name in runs[0]},
        "guidance": guidance.means(),
        "steps": {step: hits.means() for step, hits in cut.items()},
        "seed_cosine": seed_cosine / max(1, guidance.rows),
        "own_cosine": own_cosine / max(1, guidance.rows),
        "item_cosine": item_cosine(model.item_vectors()),
    }


def table(found: dict[str, dict[str, Any]]) -> str:
    """Markdown: for each run a line of its chain, of its guidance and of each cut chain."""
    metrics = list(next(iter(found.values()))["chain"])
    lines = [
        "| run | ranked by | " + " | ".join(metrics) + " | seed cosine | own cosine | item cosine |",
        "|---" * (len(metrics) + 5) + "|",
    ]
    for run, result in found.items():
        cosines = " | ".join(f"{result[name]:.3f}" for name in ("seed_cosine", "own_cosine", "item_cosine"))
        of_chain = [f"{result['chain'][name]:.4f} ± {result['chain_deviation'][name]:.4f}" for name in metrics]
        lines.append(f"| {run} | chain | {' | '.join(of_chain)} | {cosines} |")
        others = {"guidance": result["guidance"], **{f"{step} steps": hits for step, hits in result["steps"].items()}}
        for name, values in others.items():
            lines.append(f"| | {name} | {' | '.join(f'{values[metric]:.4f}' for metric in metrics)} | | | |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("runs", nargs="+", type=Path, help="folders of runs, or checkpoint files")
    parser.add_argument("--split", choices=("valid", "test"), default="test", help="(%(default)s)")
    parser.add_argument("--seeds", type=int, default=3, help="how many evaluation seeds, from 2023 on (%(default)s)")
    parser.add_argument("--steps", default="", help="cut the chain after so many steps: 1,5,20")
    parser.add_argument("--topk", default="10,20,50", help="(%(default)s)")
    parser.add_argument("--data_path", help="folder of the datasets, where it is no longer the one of the run")
    parser.add_argument("--labels", default="", help="what tables call the runs, in their order: a;b;c")
    parser.add_argument("--json", type=Path, help="write all numbers to this file")
    options, rest = parser.parse_known_args(arguments)
    keys: dict[str, Any] = {"show_progress": False}
    if options.data_path:
        keys["data_path"] = options.data_path
    for word in rest:
        name, equals, value = word.removeprefix("--").partition("=")
        if not equals or not word.startswith("--"):
            parser.error(f"'{word}' is no key; write it as --key=value")
        keys[name] = (
            json.loads(value) if value[:1] in '0123456789.-[{"' else {"True": True, "False": False}.get(value, value)
        )
    seeds = [2023 + number for number in range(options.seeds)]
    cutoffs, steps = (tuple(int(k) for k in text.split(",") if k) for text in (options.topk, options.steps))
    labels = [label for label in options.labels.split(";") if label]
    found = {}
    for run in options.runs:
        try:
            model, loaders = trained(run, keys)
        except UserError as error:
            parser.error(str(error))
        found[run.name] = {
            "label": labels.pop(0) if labels else run.name,
            "split": options.split,
            **parts(model, loaders[options.split], seeds, cutoffs, steps),
        }
    print(table(found))
    if options.json:
        options.json.write_text(json.dumps({"benchmark": "dimerec_parts", **found}, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
