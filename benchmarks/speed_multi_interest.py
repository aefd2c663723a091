"""What diffusion costs a multi-interest model: a training step beside its base's, K chains at once beside one by one.

    python benchmarks/speed_multi_interest.py [--device=cpu] [--repeats=7] [--sections=...] [--output=FILE.json]

Rows are synthetic (popular items more often, lengths as in Amazon Beauty under the user split), sizes those of the
papers on Beauty: 12,101 items, batch 128, histories of 20, K = 4, D = 64, 1,280 negatives; both models of a pair get
the same rows and the same sizes.

Sections (--sections=dmi,dimerec,chains,profile):

dmi       rows per second of training steps (losses, backward, optimiser): DMI beside REMI
dimerec   the same: DimeRec beside ComiRecSA, its negatives shared by the batch as ComiRecSA's are
chains    users per second of DMI's reverse chains (interests of a history to refined interests): all K of a batch in
          one chain, beside a loop over interests, once as Algorithm 2 is printed (keys and values in every step) and
          once with this package's parts (keys and values once an interest). The three must agree to 1e-5.
profile   where a training step of DMI spends its time, by operator

Pairs are interleaved (base, ours, base, ours, ...); a cost is the ratio of seconds within a pair, its median over pairs
is reported with its spread.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measuring import Load, Progress, code_version, command_line, machine, now, rate, say, spread
from torch import Tensor

HERE = Path(__file__).resolve().parent
sys.path.insert(1, str(HERE.parent))  # measure this checkout, installed or not
SECTIONS = ("dmi", "dimerec", "chains", "profile")
PAIRS = {"dmi": ("REMI", "DMI"), "dimerec": ("ComiRecSA", "DimeRec")}
# what makes a model's loss the work that its base's is: negatives drawn once for the batch
EQUAL = {"DimeRec": {"negatives": "shared", "avoid_history": False, "remove_hits": False}}
COST_LIMIT = 2.0
CHAINS_LEAST = 3.0
TOLERANCE = 1e-5
CHAIN_SIDES = ("batched", "loop", "loop_as_printed")


@dataclasses.dataclass(frozen=True)
class Sizes:
    """What both models of a pair get."""

    items: int = 12101
    batch: int = 128
    MAX_ITEM_LIST_LENGTH: int = 20
    hidden_size: int = 64
    n_interests: int = 4
    n_negatives: int = 1280
    num_steps: int = 10

    def keys(self) -> dict[str, Any]:
        """Those that are keys of a model."""
        return {name: value for name, value in dataclasses.asdict(self).items() if name not in ("items", "batch")}


TINY = Sizes(items=50, batch=8, MAX_ITEM_LIST_LENGTH=6, hidden_size=8, n_interests=2, n_negatives=20, num_steps=3)


class Catalogue:
    """Stands for a dataset where a model only asks how many ids a field has."""

    def __init__(self, items: int) -> None:
        self.items = items

    def num(self, field: str) -> int:
        """Number of ids, the padding id included."""
        return self.items + 1


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="What diffusion costs a multi-interest model.")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (%(default)s)")
    parser.add_argument("--repeats", type=int, default=7, help="pairs of measurements (%(default)s)")
    parser.add_argument("--steps", type=int, default=60, help="training steps of one measurement (%(default)s)")
    parser.add_argument("--users", default="1,128,2048", help="batches of users in inference (%(default)s)")
    parser.add_argument("--seconds", type=float, default=1.0, help="of one measurement of chains (%(default)s)")
    parser.add_argument("--seed", type=int, default=2023, help="seed of rows and weights (%(default)s)")
    parser.add_argument("--sections", default=",".join(SECTIONS), help="what to measure (%(default)s)")
    parser.add_argument(
        "--output", default=str(HERE / "results" / "speed_multi_interest.json"), help="JSON (%(default)s)"
    )
    parser.add_argument("--try_out", action="store_true", help="tiny sizes, to see that the command works")
    options = parser.parse_args()
    options.sections = [name for name in options.sections.split(",") if name]
    unknown = [name for name in options.sections if name not in SECTIONS]
    if unknown:
        parser.error(f"--sections: {', '.join(unknown)} is not one of {', '.join(SECTIONS)}")
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        parser.error("--device=cuda: torch sees no CUDA device here")
    if options.try_out:
        options.repeats, options.steps, options.users, options.seconds = 2, 2, "1,3", 0.0
    options.users = [int(count) for count in options.users.split(",")]
    return options


def rows(sizes: Sizes, count: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Histories (count, L) right-padded, lengths and targets; an item's odds fall as 1 / (rank + 10)."""
    odds = 1.0 / (np.arange(sizes.items) + 10.0)
    width = sizes.MAX_ITEM_LIST_LENGTH
    least = min(4, width)
    lengths = np.minimum(least + generator.geometric(0.18, count) - 1, width)
    ids = 1 + generator.choice(sizes.items, (count, width + 1), p=odds / odds.sum())
    history = np.where(np.arange(width) < lengths[:, None], ids[:, :width], 0)
    return history, lengths, ids[:, width]


class Contestant:
    """One model with its optimiser, on synthetic rows."""

    def __init__(self, name: str, sizes: Sizes, options: argparse.Namespace, scratch: str) -> None:
        from recbole_diffusion.config import RunConfig
        from recbole_diffusion.registry import resolve_model
        from recbole_diffusion.training.optimizer import fused_adam

        fields = {field.name for field in dataclasses.fields(resolve_model(name).options_class)}  # type: ignore[arg-type]
        keys = {key: value for key, value in sizes.keys().items() if key in fields or key == "MAX_ITEM_LIST_LENGTH"}
        if name != "DMI":
            keys.pop("num_steps", None)  # T is a model's own; a training step takes one of the T
        self.device = torch.device(options.device)
        keys |= EQUAL.get(name, {})
        keys |= {"data_path": scratch, "use_gpu": self.device.type == "cuda"}
        torch.manual_seed(options.seed)
        config = RunConfig(name, "synthetic", overrides=keys)
        self.name = name
        self.keys = {key: keys[key] for key in keys if key in fields or key == "MAX_ITEM_LIST_LENGTH"}
        self.model: Any = config.entry.model_class(config, Catalogue(sizes.items)).to(self.device)
        parameters = list(self.model.parameters())
        self.parameters = sum(parameter.numel() for parameter in parameters)
        optimizer = fused_adam("adam", parameters, config["learning_rate"], 0.0)
        self.optimizer: Any = optimizer or torch.optim.Adam(parameters, lr=config["learning_rate"])

    def batch(self, sizes: Sizes, count: int, generator: np.random.Generator) -> Any:
        """Random rows as the models take them."""
        from recbole.data.interaction import Interaction

        history, lengths, targets = (torch.from_numpy(part) for part in rows(sizes, count, generator))
        names = (self.model.ITEM_SEQ, self.model.ITEM_SEQ_LEN, self.model.POS_ITEM_ID)
        return Interaction(dict(zip(names, (history, lengths, targets), strict=True))).to(self.device)

    def train_on(self, batches: Sequence[Any]) -> int:
        """Steps of training; the rows they had."""
        self.model.train()
        for batch in batches:
            self.optimizer.zero_grad(set_to_none=True)
            torch.stack(list(self.model.losses(batch).values())).sum().backward()
            self.optimizer.step()
        return sum(len(batch) for batch in batches)


def measure_steps(section: str, sizes: Sizes, options: argparse.Namespace, scratch: str) -> dict[str, Any]:
    """Interleaved training steps of a base and of the model with diffusion."""
    base, ours = (Contestant(name, sizes, options, scratch) for name in PAIRS[section])
    generator = np.random.default_rng(options.seed)
    progress = Progress(section, options.repeats)
    pairs = []
    for contestant in (base, ours):
        contestant.train_on([contestant.batch(sizes, sizes.batch, generator) for _ in range(min(5, options.steps))])
    for _ in range(options.repeats):
        batches = [base.batch(sizes, sizes.batch, generator) for _ in range(options.steps)]
        speeds = {
            side: rate(functools.partial(contestant.train_on, batches), base.device)
            for side, contestant in (("base", base), ("ours", ours))
        }
        pairs.append({side: round(value, 2) for side, value in speeds.items()})
        progress.step(f"{base.name} {speeds['base']:.0f}, {ours.name} {speeds['ours']:.0f} rows/s")
    cost = spread([pair["base"] / pair["ours"] for pair in pairs])
    return {
        "base": base.name,
        "ours": ours.name,
        "unit": "rows/s",
        "rates": {side: spread([pair[side] for pair in pairs]) for side in ("base", "ours")},
        "cost": cost,
        "pairs": pairs,
        "parameters": {"base": base.parameters, "ours": ours.parameters},
        "keys": {"base": base.keys, "ours": ours.keys},
        "limit": COST_LIMIT,
        "met": cost["median"] <= COST_LIMIT,
    }


def chain_batched(model: Any, items: Tensor, interests: Any, lengths: Tensor, start: Tensor) -> Tensor:
    """All interests in one chain, from `start` (B, K, D)."""
    from recbole_diffusion.diffusion.noise import ZeroNoise
    from recbole_diffusion.interests.pruning import kept_items

    refinement = model.refinement
    kept = kept_items(interests.weights, lengths, refinement.keep_ratio)
    condition = refinement.denoiser.prepare(items, kept)
    return refinement.fuse(
        refinement.sampler(refinement.denoiser, start, condition, noise=ZeroNoise()), interests.vectors
    )


def chain_loop(model: Any, items: Tensor, interests: Any, lengths: Tensor, start: Tensor) -> Tensor:
    """The same chain, one interest after the other."""
    from recbole_diffusion.interests.multi_interest import Interests

    parts = []
    for k in range(start.shape[1]):
        one = Interests(interests.vectors[:, k : k + 1], interests.weights[:, k : k + 1])
        parts.append(chain_batched(model, items, one, lengths, start[:, k : k + 1]))
    return torch.cat(parts, dim=1)


def chain_as_printed(model: Any, items: Tensor, interests: Any, lengths: Tensor, start: Tensor) -> Tensor:
    """Algorithm 2 as printed: for every interest, for every step, Eq. 11 on concat(e_t, C), then Eq. 10."""
    from torch.nn import functional

    from recbole_diffusion.denoisers.transformer import activate
    from recbole_diffusion.interests.pruning import kept_items

    refinement = model.refinement
    denoiser, tables = refinement.denoiser, refinement.process.schedule.tables
    results = []
    for k in range(start.shape[1]):
        x, v = start[:, k], interests.vectors[:, k]
        kept = kept_items(interests.weights[:, k : k + 1], lengths, refinement.keep_ratio)[:, 0]
        seen = functional.pad(kept, (1, 0), value=True)[:, None, None]
        for t in reversed(range(refinement.process.num_steps)):
            step = denoiser.step_embedding(torch.full((len(x),), t, device=x.device))
            tokens = torch.cat([step[:, None], items], dim=1)
            x_0 = x
            for block in denoiser.blocks:
                attention = block.attention
                heads = (len(x), -1, attention.heads, x.shape[1] // attention.heads)
                flat = tokens.flatten(0, 1)
                key, value = attention.key(flat), attention.value(flat)
                query = attention.query(block.attention_norm(x_0))
                mixed = functional.scaled_dot_product_attention(
                    *(part.reshape(heads).transpose(1, 2) for part in (query, key, value)), attn_mask=seen
                )
                x_0 = x_0 + attention.output(mixed.transpose(1, 2).reshape(len(x), -1))
                inner = block.feed_forward
                hidden = activate(inner.expand(block.feed_forward_norm(x_0)), inner.activation)
                x_0 = x_0 + inner.contract(hidden)
            x = float(tables["posterior_mean_coef1"][t]) * x_0 + float(tables["posterior_mean_coef2"][t]) * x
        results.append(refinement.fuse(x, v))
    return torch.stack(results, dim=1)


def refine(model: Any, batch: Any, start: Tensor, way: Callable[..., Tensor]) -> int:
    """Extract and refine the interests of a batch; how many users it had."""
    items, interests = model.interests(batch)
    return len(way(model, items, interests, batch[model.ITEM_SEQ_LEN], start))


def repeated(work: Callable[[], int], seconds: float, device: torch.device) -> float:
    """Rows per second of `work`, repeated until `seconds` have passed."""

    def until() -> int:
        rows_done, end = 0, time.perf_counter() + seconds
        while True:
            rows_done += work()
            if time.perf_counter() >= end:
                return rows_done

    return rate(until, device)


@torch.no_grad()
def measure_chains(sizes: Sizes, options: argparse.Namespace, scratch: str) -> dict[str, Any]:
    """Users per second of the three ways to refine all interests, for several sizes of a batch.

    Raises:
        ArithmeticError: they do not compute the same.
    """
    contestant = Contestant("DMI", sizes, options, scratch)
    model = contestant.model.eval()
    ways = dict(zip(CHAIN_SIDES, (chain_batched, chain_loop, chain_as_printed), strict=True))
    generator = np.random.default_rng(options.seed)
    found: dict[str, Any] = {}
    progress = Progress("chains", len(options.users) * options.repeats)
    for users in options.users:
        batch = contestant.batch(sizes, users, generator)
        lengths = batch[model.ITEM_SEQ_LEN]
        items, interests = model.interests(batch)
        last = torch.full((users,), sizes.num_steps - 1, device=contestant.device)
        start = model.refinement.process.sample(interests.vectors, last, noise=torch.randn_like(interests.vectors)).x_t

        results = {side: way(model, items, interests, lengths, start) for side, way in ways.items()}
        difference = max(float((results[side] - results["batched"]).abs().max()) for side in CHAIN_SIDES[1:])
        if not difference <= TOLERANCE:
            raise ArithmeticError(
                f"the chains differ by {difference:.1e}, more than {TOLERANCE:.0e}; no ratio is reported"
            )
        pairs = []
        for _ in range(options.repeats):
            pair = {}
            for side, way in ways.items():
                work = functools.partial(refine, model, batch, start, way)
                pair[side] = round(repeated(work, options.seconds, contestant.device), 2)
            pairs.append(pair)
            progress.step(", ".join(f"{side} {value:.0f}" for side, value in pairs[-1].items()) + " users/s")
        found[str(users)] = {
            "difference": difference,
            "rates": {side: spread([pair[side] for pair in pairs]) for side in CHAIN_SIDES},
            "gain": {side: spread([pair["batched"] / pair[side] for pair in pairs]) for side in CHAIN_SIDES[1:]},
            "pairs": pairs,
        }
    return {"unit": "users/s", "tolerance": TOLERANCE, "least": CHAINS_LEAST, "users": found}


def measure_profile(sizes: Sizes, options: argparse.Namespace, scratch: str, most: int = 14) -> dict[str, Any]:
    """Operators of DMI's training steps by the time spent in them, children left out."""
    from torch.profiler import ProfilerActivity, profile

    contestant = Contestant("DMI", sizes, options, scratch)
    generator = np.random.default_rng(options.seed)
    batches = [contestant.batch(sizes, sizes.batch, generator) for _ in range(options.steps)]
    contestant.train_on(batches[:5])
    on_gpu = contestant.device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with profile(activities=activities) as recorded:
        contestant.train_on(batches)
    events = recorded.key_averages()
    spent = {event.key: event.self_device_time_total if on_gpu else event.self_cpu_time_total for event in events}
    total = sum(spent.values())
    calls = {event.key: event.count for event in events}
    largest = sorted(spent, key=lambda name: -spent[name])[:most]
    return {
        "steps": len(batches),
        "milliseconds_a_step": round(total / 1000 / len(batches), 3),
        "operators": [
            {"name": name, "share": round(spent[name] / total, 4), "calls_a_step": round(calls[name] / len(batches), 1)}
            for name in largest
        ],
    }


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Everything asked for, as the JSON's content."""
    load = Load()
    sizes = TINY if options.try_out else Sizes()
    result: dict[str, Any] = {
        "benchmark": "speed_multi_interest",
        "command": command_line(),
        "time": now(),
        "code": code_version(HERE),
        "try_out": options.try_out,
        "sizes": dataclasses.asdict(sizes),
        "settings": {name: getattr(options, name) for name in ("device", "repeats", "steps", "seconds", "seed")},
    }
    with tempfile.TemporaryDirectory() as scratch:
        for section in options.sections:
            if section in PAIRS:
                result[section] = measure_steps(section, sizes, options, scratch)
            elif section == "chains":
                result[section] = measure_chains(sizes, options, scratch)
            else:
                result[section] = measure_profile(sizes, options, scratch)
    result["machine"] = machine(torch.device(options.device))
    result["load"] = load.report()
    return result


def main() -> int:
    """Measure and write the JSON; 0, or 1 when something cannot be measured."""
    options = arguments()
    try:
        result = measure(options)
    except (ArithmeticError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    path = Path(options.output)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    for section in PAIRS:
        if section in result:
            part = result[section]
            say(f"a step of {part['ours']} costs {part['cost']['median']:.2f} steps of {part['base']}")
    say(f"written: {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
