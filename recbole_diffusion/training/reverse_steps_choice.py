"""`reverse_steps: auto`: after training, the fewest reverse steps whose validation NDCG@10 is nearly the full chain's.

    chosen = min { n : M(n) >= (1 - tolerance) M(T) },   M(n) the metric of the validation rows with n steps

1, 2, 4, ... steps are tried, the fewest first, until one is good enough; between it and the last that was not, by
bisection. So where quality does not always grow with the steps a smaller number than the chosen one may do as well, but
the chosen one does. Only losing counts: fewer steps that rank better are within every tolerance.

The metric is NDCG@10 where the run measures it, else `valid_metric`. The chain is the run's own (`reverse_sampler`,
`reverse_grid`, `reverse_eta`, ...), noise and rows are the same for every number.

What is measured goes to reverse_steps.json in the run's folder one number after the other, so that a run which is cut
meanwhile goes on where it was.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recbole.utils import calculate_valid_score

from recbole_diffusion.errors import UserError
from recbole_diffusion.training.checkpoint import Checkpoint, read_checkpoint, write_checkpoint, write_text_atomically
from recbole_diffusion.training.run_folder import RunFolder

logger = logging.getLogger(__name__)

METRIC = "NDCG@10"
DEFAULT_TOLERANCE = 0.01  # of a model of one's own that has no key for it


@dataclass(frozen=True)
class StepsChoice:
    """A number of reverse steps and why.

    Attributes:
        chosen: the number.
        num_steps: T, that of the full chain.
        metric: what was compared on the validation rows.
        tolerance: the share of the full chain's value that might be lost.
        measured: steps -> value, in order of steps.
    """

    chosen: int
    num_steps: int
    metric: str
    tolerance: float
    measured: dict[int, float]

    def facts(self) -> dict[str, Any]:
        """As plain values for JSON."""
        return {
            "chosen": self.chosen,
            "num_steps": self.num_steps,
            "metric": self.metric,
            "tolerance": self.tolerance,
            "measured": {str(steps): value for steps, value in self.measured.items()},
        }


def fewest_steps(
    measure: Callable[[int], float], num_steps: int, tolerance: float, *, larger_is_better: bool = True
) -> int:
    """The fewest steps that lose no more than the tolerance against all of them; see the module.

    Args:
        measure: a number of steps -> the metric; asked once for each.
        num_steps: T.
        tolerance: share of the full chain's value.
        larger_is_better: of the metric.
    """
    full = measure(num_steps)

    def good(steps: int) -> bool:
        value = measure(steps)
        lost = full - value if larger_is_better else value - full
        return lost <= tolerance * abs(full)

    bad, steps = 0, 1
    while steps < num_steps and not good(steps):
        bad, steps = steps, min(2 * steps, num_steps)
    while steps - bad > 1:
        middle = (bad + steps) // 2
        if good(middle):
            steps = middle
        else:
            bad = middle
    return steps


def is_open(config: Any) -> bool:
    """Whether a number of reverse steps is still to be chosen."""
    return config["reverse_steps"] == "auto" and config["reverse_steps_chosen"] is None


def refuse_open_choice(config: Any, checkpoint: Path) -> None:
    """Refuse to sample with a number of steps that was never chosen.

    Raises:
        UserError: says how it is chosen, and how to go without.
    """
    if is_open(config):
        raise UserError(
            f"{checkpoint} has reverse_steps: auto and no number for this chain yet; `recbole-diff evaluate "
            "--checkpoint=...` with the same keys chooses one, or give --reverse_steps=NUMBER"
        )


def choose_reverse_steps(trainer: Any, valid_data: Any, *, weights: str, show_progress: bool) -> StepsChoice:
    """Choose, with the weights that the model has, and let the model sample with that number from now on.

    Args:
        trainer: made by `trainer_class`, of a model with `use_reverse_steps`; of several workers all take part.
        valid_data: the validation rows' loader.
        weights: what tells these weights from others of the same folder, such as the best epoch: figures that an
            interrupted choice left are used for the same weights alone.
        show_progress: progress bars.

    Raises:
        UserError: there are no validation rows.
    """
    check_validation_rows(valid_data)
    config, model = trainer.config, trainer.model
    num_steps = int(config["num_steps"])
    metric, larger = _compared_metric(config)
    tolerance = config["reverse_steps_tolerance"]
    tolerance = DEFAULT_TOLERANCE if tolerance is None else float(tolerance)
    owner = {"weights": weights, "metric": metric, "num_steps": num_steps}
    measured: dict[int, float] = trainer.workers.broadcast(_kept(trainer.folder, owner))

    def measure(steps: int) -> float:
        if steps not in measured:
            began = time.perf_counter()
            model.use_reverse_steps(None if steps == num_steps else steps)
            result = trainer.evaluate(valid_data, load_best_model=False, show_progress=show_progress)
            measured[steps] = float(calculate_valid_score(result, metric.lower()))
            _keep(trainer.folder, owner, measured)
            logger.info(
                "%d of %d reverse steps: validation %s %.6f%s, %.1f s",
                *(steps, num_steps, metric, measured[steps]),
                "" if steps == num_steps else _against(measured[steps], measured[num_steps]),
                time.perf_counter() - began,
            )
        return measured[steps]

    share = 100 * tolerance
    logger.info("reverse_steps: auto, the fewest steps are chosen that lose at most %g %% of %s", share, metric)
    chosen = fewest_steps(measure, num_steps, tolerance, larger_is_better=larger)
    model.use_reverse_steps(None if chosen == num_steps else chosen)
    config["reverse_steps_chosen"] = chosen
    logger.info("reverse_steps: auto chose %d of %d steps", chosen, num_steps)
    return StepsChoice(chosen, num_steps, metric, tolerance, dict(sorted(measured.items())))


def check_validation_rows(valid_data: Any) -> None:
    """Refuse to choose without validation rows.

    Raises:
        UserError: there are none.
    """
    if not valid_data:
        raise UserError(
            "reverse_steps is auto, which is chosen on the validation rows, but the protocol leaves none; give a number"
        )


def store_choice(folder: RunFolder, choice: StepsChoice) -> None:
    """Write the choice into the run's config.yaml and its best checkpoint: `reverse_steps_chosen`, and the figures.

    Everything else in both stays as it is.
    """
    if not folder.writes:
        return
    facts = choice.facts()
    if folder.best.is_file():
        stored = read_checkpoint(folder.best)
        known = {
            **stored.facts,
            "config": {**stored.facts["config"], "reverse_steps_chosen": choice.chosen},
            "reverse_steps_choice": facts,
        }
        if known != stored.facts:
            write_checkpoint(folder.best, Checkpoint(stored.tensors, known))
            text = json.dumps(known, indent=2, ensure_ascii=False) + "\n"
            write_text_atomically(folder.best.with_suffix(".json"), text)
    if folder.config.is_file():
        folder.write_config({**folder.read_config(), "reverse_steps_chosen": choice.chosen})


def _compared_metric(config: Any) -> tuple[str, bool]:
    """The metric, and whether larger is better."""
    name, _, cutoff = METRIC.partition("@")
    if name.lower() in [metric.lower() for metric in config["metrics"]] and int(cutoff) in config["topk"]:
        return METRIC, True
    return config["valid_metric"], bool(config["valid_metric_bigger"])


def _against(value: float, full: float) -> str:
    """A value beside the full chain's, in words."""
    return f" ({100 * (value / full - 1):+.2f} % of the full chain's)" if full else ""


def _kept(folder: RunFolder, owner: Mapping[str, Any]) -> dict[int, float]:
    """What an interrupted choice with the same weights measured."""
    try:
        kept = json.loads(folder.reverse_steps.read_text(encoding="utf-8"))
        if {key: kept[key] for key in owner} != dict(owner):
            return {}
        return {int(steps): float(value) for steps, value in kept["measured"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _keep(folder: RunFolder, owner: Mapping[str, Any], measured: Mapping[int, float]) -> None:
    if folder.writes:
        content = {**owner, "measured": {str(steps): value for steps, value in sorted(measured.items())}}
        write_text_atomically(folder.reverse_steps, json.dumps(content, indent=2) + "\n")
