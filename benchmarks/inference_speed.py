"""Few-step inference of a trained DiffuRec beside the plain 32-step implementation and RecBole's SASRec, in one run.

    python benchmarks/inference_speed.py --run=RUN_FOLDER --data_path=FOLDER [--device=cpu] [--repeats=5]

RUN_FOLDER is a finished run of DiffuRec (Amazon Beauty, leave-one-out, converged). Sides:

plain        the yardstick (reference_diffurec.py) with the checkpoint's weights, all T steps, every history padded
full, one    this project's model of the checkpoint with all T steps, and with 1
chosen       the same with the number that `reverse_steps: auto` chose, where the run has one
compiled     the same as `one` through torch.compile, with --compile
sasrec       RecBole's own SASRec of the same sizes (weights do not matter to its speed), padded as it pads

Sections (--sections=quality,throughput,latency):

quality      NDCG@10 and HR@10 of the test users by `plain` and by ours, from the same weights: what "equal" means.
             Ours ranks all test users, the yardstick --quality_users of them drawn at random (0 for all; about 33
             users a second on two idle cores), and ours is also given for these same users
throughput   top 20 of all items, user vectors to item ids: users per second. Batches are made beforehand for all
             sides; the sides follow each other in every round, and a ratio is taken within a round
latency      one user at a time: `Recommender.recommend` from tokens to tokens, and SASRec's `full_sort_predict` of a
             row that is a tensor already, for the same users in turns; milliseconds, p50, p90, p99, wall and CPU time

The yardstick's weights are the checkpoint's; before anything is timed both run on the same rows with every random
number fixed, as in speed_diffurec.py, and a difference above 1e-5 ends the command.
"""

from __future__ import annotations

import argparse
import copy
import json
import logging
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from contestants import TOLERANCE, Ours, Yardstick, largest_differences, load_into_yardstick, worst
from leave_one_out import LeaveOneOut
from measuring import Load, Progress, code_version, command_line, machine, now, say, spread, synchronise
from reference_diffurec import ReferenceSizes
from torch import Tensor

HERE = Path(__file__).resolve().parent
sys.path.insert(1, str(HERE.parent))  # measure this checkout, installed or not
SECTIONS = ("quality", "throughput", "latency")
TOP_K, CUTOFF = 20, 10
PARITY_ROWS = 32
WARM_UP = 50
AIMS = {"plain": 100.0, "sasrec": 1 / 1.3, "latency": 3.0, "ndcg": 0.01}


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Few-step DiffuRec beside 32 plain steps and RecBole's SASRec.")
    parser.add_argument("--run", required=True, help="folder of a finished run of DiffuRec")
    parser.add_argument("--data_path", help="folder of the datasets, where it is no longer that of the run")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (%(default)s)")
    parser.add_argument("--sections", default=",".join(SECTIONS), help="what to measure (%(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="rounds of throughput (%(default)s)")
    parser.add_argument("--users", type=int, default=512, help="yardstick's users in a round (%(default)s)")
    parser.add_argument("--sasrec_users", type=int, default=4096, help="SASRec's users in a round (%(default)s)")
    parser.add_argument("--our_users", type=int, default=0, help="ours in a round, 0 for all test users (%(default)s)")
    parser.add_argument("--full_users", type=int, default=2048, help="ours with all T steps in a round (%(default)s)")
    parser.add_argument("--quality_users", type=int, default=0, help="yardstick's, 0 for all test users (%(default)s)")
    parser.add_argument("--latency_users", type=int, default=1000, help="users one at a time (%(default)s)")
    parser.add_argument("--batch_size", type=int, default=2048, help="rows of a batch of ours, SASRec's (%(default)s)")
    parser.add_argument("--compile", action="store_true", help="also ours through torch.compile")
    parser.add_argument("--seed", type=int, default=2023, help="of the users that are drawn (%(default)s)")
    parser.add_argument("--output", default=str(HERE / "results" / "inference_speed.json"), help="JSON (%(default)s)")
    parser.add_argument("--try_out", action="store_true", help="a few users, to see that the command works")
    options = parser.parse_args(given)
    options.sections = [name for name in options.sections.split(",") if name]
    if unknown := [name for name in options.sections if name not in SECTIONS]:
        parser.error(f"--sections: {', '.join(unknown)} is not one of {', '.join(SECTIONS)}")
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        parser.error("--device=cuda: torch sees no CUDA device here")
    if options.try_out:
        options.repeats, options.users, options.sasrec_users, options.full_users = 2, 8, 16, 16
        options.quality_users, options.latency_users = 8, 5
    return options


@dataclass(frozen=True)
class TestRows:
    """All test rows of a run: histories (R, L) right-padded, lengths (R,), targets (R,), row numbers follow."""

    histories: Tensor
    lengths: Tensor
    targets: Tensor

    def __len__(self) -> int:
        return len(self.lengths)

    def batch(self, rows: np.ndarray, device: torch.device) -> Any:
        """Some rows as RecBole's models take them."""
        from recbole.data.interaction import Interaction

        from recbole_diffusion.models.base import EVALUATION_ROW

        index = torch.as_tensor(rows)
        fields = {"item_id_list": self.histories[index], "item_length": self.lengths[index], EVALUATION_ROW: index}
        return Interaction(fields).to(device)

    def left_padded(self, rows: np.ndarray) -> Tensor:
        """Some rows as the yardstick takes them, (rows, L)."""
        shifts = self.histories.shape[1] - self.lengths[torch.as_tensor(rows)]
        places = torch.arange(self.histories.shape[1])[None] - shifts[:, None]
        return self.histories[torch.as_tensor(rows)].gather(1, places.clamp_min(0)).masked_fill(places < 0, 0)


def read_rows(session: Any) -> TestRows:
    """The test rows as the run's own loader gives them, padded to the run's length."""
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    length = session.config["MAX_ITEM_LIST_LENGTH"]
    for interaction, _, row, item in session.test_data:
        if not torch.equal(row.cpu(), torch.arange(len(interaction))):
            raise ValueError("every test row must have one target; give a run with protocol: leave_one_out")
        histories = torch.zeros(len(interaction), length, dtype=torch.long)
        given = interaction["item_id_list"].long()
        histories[:, : given.shape[1]] = given
        parts.append((histories, interaction["item_length"].long(), item.cpu().long()))
    return TestRows(*(torch.cat(column) for column in zip(*parts, strict=True)))


def sizes_of(config: Any, n_items: int) -> ReferenceSizes:
    """The yardstick's sizes, from a run that computes what the yardstick does.

    Raises:
        ValueError: names a key with which it computes something else.
    """
    expected = {
        "model": "DiffuRec",
        "approximator": "transformer",
        "hidden_act": "gelu_tanh",
        "noise_schedule": "trunc_lin",
        "use_positions": False,
        "reverse_noise": "sqrt_beta",
        "reverse_eta": 1.0,
        "reverse_sampler": "grid",
        "reverse_grid": "even",
        "rescale_steps": True,
        "score": "dot",
        "filter_seen": False,
        "n_eval_samples": 1,
    }
    for key, value in expected.items():
        if config[key] != value:
            raise ValueError(f"the run has {key}: {config[key]}, but the plain implementation computes {key}: {value}")
    return ReferenceSizes(
        n_items + 1,
        hidden_size=config["hidden_size"],
        n_layers=config["n_layers"],
        n_heads=config["n_heads"],
        max_length=config["MAX_ITEM_LIST_LENGTH"],
        num_steps=config["num_steps"],
        lambda_mean=config["lambda_mean"],
        lambda_std=config["lambda_std"],
        mask_keys=config["mask_mode"] == "key",
    )


def make_sasrec(config: Any, n_items: int, data_path: str | None, device: torch.device) -> Any:
    """RecBole's SASRec of the run's sizes."""
    from contestants import Catalogue
    from recbole.model.sequential_recommender.sasrec import SASRec

    from recbole_diffusion.config import RunConfig

    keys = {
        "hidden_size": config["hidden_size"],
        "inner_size": 4 * config["hidden_size"],
        "n_layers": config["n_layers"],
        "n_heads": config["n_heads"],
        "MAX_ITEM_LIST_LENGTH": config["MAX_ITEM_LIST_LENGTH"],
        "loss_type": "CE",
        "use_gpu": device.type == "cuda",
    }
    settings = RunConfig("SASRec", config["dataset"], (), {**keys, "data_path": data_path or config["data_path"]})
    return SASRec(settings, Catalogue(n_items + 1)).to(device).eval()


class Sides:
    """Everything that is compared, each as users' row numbers -> their 20 best items (rows, 20)."""

    def __init__(self, options: argparse.Namespace) -> None:
        from recbole_diffusion.quick_start import evaluation_config
        from recbole_diffusion.session import TrainingSession
        from recbole_diffusion.training.run_folder import RunFolder

        self.options, self.device = options, torch.device(options.device)
        keys = {"show_progress": False, "use_gpu": self.device.type == "cuda"}
        config, checkpoint = evaluation_config(options.run, keys, data_path=options.data_path)
        self.scratch = tempfile.TemporaryDirectory()
        self.session = TrainingSession(config, RunFolder(Path(self.scratch.name), writes=False))
        self.session.take(checkpoint)
        self.config, self.checkpoint = config, checkpoint
        self.rows = read_rows(self.session)
        self.n_items = int(self.session.train_data._dataset.item_num) - 1
        self.model = self.session.trainer.model.eval()
        self.chosen = config["reverse_steps_chosen"] if config["reverse_steps"] == "auto" else None
        self.sizes = sizes_of(config, self.n_items)
        self.yardstick = Yardstick(self.sizes, self.device)
        load_into_yardstick(self.model, self.yardstick.model)
        self.yardstick.model.eval()
        self.sasrec = make_sasrec(config, self.n_items, options.data_path, self.device)
        self.compiled = torch.compile(copy.deepcopy(self.model.denoiser), dynamic=True) if options.compile else None

    def parity(self) -> dict[str, Any]:
        """Differences of yardstick and ours with every random number fixed, on rows with any items."""
        generator = np.random.default_rng(self.options.seed)
        longest = self.sizes.max_length + 5
        lengths = generator.integers(3, longest, PARITY_ROWS)
        sequences = [generator.integers(1, self.n_items + 1, length).tolist() for length in lengths]
        data = LeaveOneOut(sequences, self.n_items)
        rows = data.random_test_users(PARITY_ROWS, generator, self.sizes.max_length)
        keys = {key: self.config[key] for key in ("mask_mode", "ce_include_padding")}
        ours = Ours(
            self.sizes,
            self.device,
            data_path=str(self.config["data_path"]),
            dataset=self.config["dataset"],
            overrides=keys,
            padding_token=not self.sizes.mask_keys,
        )
        ours.model.load_state_dict(self.model.state_dict())
        differences = largest_differences(self.yardstick, ours, rows, self.options.seed)
        return {"tolerance": TOLERANCE, "rows": len(rows), "worst": worst(differences), "differences": differences}

    def lists(self, side: str) -> Callable[[Any], np.ndarray]:
        """A side's work on a prepared batch: the 20 best items (rows, 20)."""
        if side == "plain":
            return self._plain
        if side == "sasrec":
            return self._sasrec
        steps = {"full": None, "one": 1, "compiled": 1, "chosen": self.chosen}[side]

        def work(batch: Any) -> np.ndarray:
            self.model.use_reverse_steps(steps)
            if side != "compiled":
                return self._ours(batch)
            eager = self.model.denoiser
            self.model.denoiser = self.compiled
            try:
                return self._ours(batch)
            finally:
                self.model.denoiser = eager

        return work

    def prepared(self, side: str, rows: np.ndarray) -> list[Any]:
        """Row numbers as the batches that the side takes, on the device."""
        size = min(self.options.batch_size, 512) if side == "plain" else self.options.batch_size
        parts = [rows[begin : begin + size] for begin in range(0, len(rows), size)]
        if side == "plain":
            return [self.rows.left_padded(part).to(self.device) for part in parts]
        return [self.rows.batch(part, self.device) for part in parts]

    @torch.no_grad()
    def _plain(self, batch: Tensor) -> np.ndarray:
        scores = self.yardstick.model.recommend(batch)
        scores[:, 0] = -torch.inf
        return torch.topk(scores, TOP_K).indices.cpu().numpy()

    @torch.no_grad()
    def _sasrec(self, batch: Any) -> np.ndarray:
        scores = self.sasrec.full_sort_predict(batch)
        scores[:, 0] = -torch.inf
        return torch.topk(scores, TOP_K).indices.cpu().numpy()

    @torch.no_grad()
    def _ours(self, batch: Any) -> np.ndarray:
        trainer = self.session.trainer
        return trainer.ranked((batch, None), self.model.item_vectors(), TOP_K, None).items


def quality(items: np.ndarray, targets: np.ndarray) -> dict[str, float]:
    """NDCG@10 and HR@10 of lists (rows, 20) with one target each (rows,)."""
    hit = items[:, :CUTOFF] == targets[:, None]
    place = hit.argmax(1)
    return {
        "ndcg@10": float(np.where(hit.any(1), 1 / np.log2(place + 2), 0.0).mean()),
        "hit@10": float(hit.any(1).mean()),
    }


def measure_quality(sides: Sides, ours: list[str]) -> dict[str, Any]:
    """Metrics of the same weights by the yardstick and by ours."""
    everyone = np.arange(len(sides.rows))
    asked = sides.options.quality_users or len(everyone)
    drawn = np.random.default_rng(sides.options.seed).permutation(everyone)[:asked]
    drawn.sort()
    targets = sides.rows.targets.numpy()
    found: dict[str, Any] = {"users": len(everyone), "drawn": len(drawn), "all": {}, "same": {}}
    for side in ours:
        work = sides.lists(side)
        items = np.concatenate([work(batch) for batch in sides.prepared(side, everyone)])
        found["all"][side] = quality(items, targets)
        found["same"][side] = quality(items[drawn], targets[drawn])
        say(f"{side}: {json.dumps(found['all'][side])}")
    batches = sides.prepared("plain", drawn)
    progress, work, lists = Progress("plain, quality", len(batches)), sides.lists("plain"), []
    for batch in batches:
        lists.append(work(batch))
        progress.step(f"{sum(map(len, lists))} users")
    found["same"]["plain"] = quality(np.concatenate(lists), targets[drawn])
    return found


def measure_throughput(sides: Sides, names: list[str]) -> dict[str, Any]:
    """Users per second of every side in every round, and ours to the others'."""
    options, device = sides.options, sides.device
    generator = np.random.default_rng(options.seed + 1)
    counts = {"plain": options.users, "sasrec": options.sasrec_users, "full": options.full_users}
    for side in names:  # memory is mapped, code loaded, and compiled where it is
        work = sides.lists(side)
        for batch in sides.prepared(side, generator.permutation(len(sides.rows))[: 8 if side == "plain" else 256]):
            work(batch)
    rounds: list[dict[str, float]] = []
    progress = Progress("throughput", options.repeats)
    for _ in range(options.repeats):
        rates: dict[str, float] = {}
        for side in names:
            drawn = generator.permutation(len(sides.rows))[: counts.get(side, options.our_users) or len(sides.rows)]
            batches, work = sides.prepared(side, drawn), sides.lists(side)
            synchronise(device)
            began = time.perf_counter()
            for batch in batches:
                work(batch)
            synchronise(device)
            rates[side] = len(drawn) / (time.perf_counter() - began)
        rounds.append({side: round(rate, 3) for side, rate in rates.items()})
        progress.step(", ".join(f"{side} {rate:.1f}" for side, rate in rates.items()) + " users/s")
    ours = [side for side in names if side not in ("plain", "sasrec")]
    return {
        "unit": "users/s",
        "top_k": TOP_K,
        "rounds": rounds,
        "sides": {side: spread([one[side] for one in rounds]) for side in names},
        "ratios": {
            side: {other: spread([one[side] / one[other] for one in rounds]) for other in ("plain", "sasrec")}
            for side in ours
        },
    }


def measure_latency(sides: Sides, steps: dict[str, int]) -> dict[str, Any]:
    """Milliseconds of one user at a time, ours and SASRec in turns for the same users."""
    from recbole_diffusion import Recommender

    options, device = sides.options, sides.device
    tokens = sides.session.train_data._dataset.field2id_token["item_id"]
    recommenders = {
        side: Recommender.load(
            sides.checkpoint, data_path=options.data_path, device=options.device, config={"reverse_steps": number}
        )
        for side, number in steps.items()
    }
    drawn = np.random.default_rng(options.seed + 2).permutation(len(sides.rows))
    drawn = drawn[: options.latency_users + WARM_UP]
    histories = [tokens[sides.rows.histories[row, : sides.rows.lengths[row]].numpy()].tolist() for row in drawn]
    single = [sides.rows.batch(np.array([row]), device) for row in drawn]
    times: dict[str, list[tuple[float, float]]] = {side: [] for side in (*recommenders, "sasrec")}

    def timed(side: str, work: Callable[[], Any]) -> None:
        synchronise(device)
        began, processor = time.perf_counter(), time.process_time()
        work()
        synchronise(device)
        times[side].append((time.perf_counter() - began, time.process_time() - processor))

    with torch.no_grad():
        for history, batch in zip(histories, single, strict=True):
            for side, recommender in recommenders.items():
                timed(side, lambda: recommender.recommend([history], TOP_K))  # noqa: B023 (called at once)
            timed("sasrec", lambda: sides.sasrec.full_sort_predict(batch))  # noqa: B023
    skipped = min(WARM_UP, len(drawn) - 1)
    found: dict[str, Any] = {"users": len(drawn) - skipped, "unit": "ms", "steps": steps, "sides": {}, "ratios": {}}
    for side, values in times.items():
        wall, processor = 1000 * np.array(values[skipped:]).T
        found["sides"][side] = {
            clock: {f"p{q}": round(float(np.percentile(numbers, q)), 4) for q in (50, 90, 99)}
            for clock, numbers in (("wall", wall), ("cpu", processor))
        }
    for side in recommenders:
        found["ratios"][side] = {
            clock: {
                q: round(found["sides"][side][clock][q] / max(found["sides"]["sasrec"][clock][q], 1e-9), 4)
                for q in ("p50", "p90", "p99")
            }
            for clock in ("wall", "cpu")
        }
    return found


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Everything asked for, as the JSON's content.

    Raises:
        ArithmeticError: the yardstick does not compute what ours does.
    """
    load = Load()
    sides = Sides(options)
    ours = ["full", "one", *(["chosen"] if sides.chosen not in (None, 1) else [])]
    ours += ["compiled"] if options.compile else []
    parity = sides.parity()
    if not parity["worst"] <= TOLERANCE:
        raise ArithmeticError(
            f"yardstick and ours differ by {parity['worst']:.2e} with every random number fixed, more than "
            f"{TOLERANCE:.0e}; nothing is reported"
        )
    say(f"with every random number fixed the two agree to {parity['worst']:.1e}")
    keys = ("hidden_size", "n_layers", "n_heads", "MAX_ITEM_LIST_LENGTH", "num_steps", "mask_mode", "item_init_std")
    result: dict[str, Any] = {
        "benchmark": "inference_speed",
        "command": command_line(),
        "measured": now(),
        "code_version": code_version(HERE),
        "machine": machine(sides.device),
        "settings": {
            "run": Path(options.run).name,
            "dataset": sides.config["dataset"],
            "items": sides.n_items,
            "users": len(sides.rows),
            "chosen": sides.chosen,
            **{key: sides.config[key] for key in keys},
            **{name: getattr(options, name) for name in ("repeats", "batch_size", "device", "seed", "try_out")},
        },
        "aims": AIMS,
        "parity": parity,
    }
    if "throughput" in options.sections:
        result["throughput"] = measure_throughput(sides, ["plain", "sasrec", *ours])
    if "latency" in options.sections:
        steps = {"one": 1} | ({"chosen": int(sides.chosen)} if "chosen" in ours else {})
        result["latency"] = measure_latency(sides, steps)
    if "quality" in options.sections:
        result["quality"] = measure_quality(sides, ours)
    result["machine"]["load"] = load.report()
    return result


def main(given: list[str] | None = None) -> int:
    """Measure and write the JSON; 0, or 1 when nothing can be said."""
    options = arguments(given)
    from recbole_diffusion.errors import UserError

    try:
        result = measure(options)
    except (ArithmeticError, ValueError, UserError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    output = Path(options.output)
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8", newline="\n")
    print(output.name)
    return 0


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    sys.exit(main())
