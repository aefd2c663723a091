"""How much of an item's category its trained vector holds: linear probing (DimeRec, section 5.2.2 and Table 2).

The item embeddings of a finished run are frozen, and a linear classifier of the items' categories is trained on them:
multinomial logistic regression with an L2 penalty, scored on items that it has not seen, in cross-validation. The
strength of the penalty is chosen within the training items of each fold. The folds are the same for all runs. Two
references stand beside the runs: vectors that were drawn and never trained, and the most frequent category for
everything. No model is built and no interaction is ranked.

The paper has one number a model for ML-10M, whose films have several genres, and says neither which one is to be
predicted nor how items are split (docs/decisions/103-analyses-of-a-run.md). Here `labels` chooses:

    first   the first category of each item in its column; with one category an item that is all there is
    all     each category is a yes or no of its own (one against the rest)

    accuracy    share of items whose likeliest category is one of theirs; for `first` the usual one
    macro_f1    F1 of each category, averaged over categories; for `all` of those that are likelier than not
    micro_f1    F1 of all decisions together; for `first` it is the accuracy

Shapes: V items (0 is padding), N items that are probed, C categories, D embedding.
"""

from __future__ import annotations

import logging
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from recbole_diffusion.analyses.progress import Progress
from recbole_diffusion.analyses.request import Findings, Request, named_runs
from recbole_diffusion.analyses.text_table import text_table
from recbole_diffusion.benchmarking.statistics import summarise
from recbole_diffusion.data.item_categories import CategoriesOfItems
from recbole_diffusion.data.reading import checked_dataset
from recbole_diffusion.errors import UserError
from recbole_diffusion.pictures import GREY, bar_style, new_figure, save
from recbole_diffusion.provenance import check_same_data, data_fingerprint
from recbole_diffusion.quick_start import evaluation_config
from recbole_diffusion.training.checkpoint import read_checkpoint
from recbole_diffusion.training.run_folder import RunFolder

logger = logging.getLogger(__name__)

LABELS = ("first", "all")
SCORES = ("accuracy", "macro_f1", "micro_f1")
MAJORITY = "majority"
ITERATIONS = 1_000
PENALTIES = (0.001, 0.01, 0.1, 1.0)


@dataclass(frozen=True)
class Task:
    """What is to be predicted.

    Attributes:
        items: (N,) ids.
        labels: (N, C) whether an item is of a category.
        names: of the C categories.
        single: whether an item has exactly one.
        column: they come from.
    """

    items: np.ndarray
    labels: np.ndarray
    names: list[str]
    single: bool
    column: str


def analyse(request: Request) -> Findings:
    """Probe the item embeddings of one run or several.

    Raises:
        UserError: no categories, runs of other data, a checkpoint without such weights.
    """
    folds = request.whole("folds", 5, least=2)
    seed = request.whole("seed", 0, least=0)
    penalties = _above_zero(request.numbers("inverse_penalty", PENALTIES))
    which = request.choice("labels", LABELS)
    runs = named_runs(request.options["runs"])
    if any(name == MAJORITY or name.startswith("random, D = ") for name, _ in runs):
        raise UserError(f"--runs: {MAJORITY} and random are the references; give a run another NAME")
    found, n_items, fingerprint = _categories(runs[0][1], request)
    least = request.whole("least_items", max(folds, 10), least=folds)
    task = task_of(found, which, least)
    weight = request.options.get("embedding", "item_embedding.weight")
    vectors = {name: item_embeddings(folder, weight, n_items, fingerprint) for name, folder in runs}
    for size in dict.fromkeys(table.shape[1] for table in vectors.values()):
        vectors[f"random, D = {size}"] = np.random.default_rng(seed).standard_normal((n_items, size))
    parts = split(task, folds, seed)
    progress = Progress(len(vectors) * folds)
    lines = []
    for name, table in vectors.items():
        for fold, (train, test) in enumerate(parts):
            penalty = best_penalty(table, task, train, penalties, seed, name)
            found_scores = score(task, test, *probe(table, task, train, test, penalty, name))
            lines.append([name, fold, *found_scores.values(), penalty])
            progress.step(f"{name}, fold {fold + 1} of {folds}: accuracy {found_scores['accuracy']:.4f}, C {penalty:g}")
    for fold, (train, test) in enumerate(parts):
        lines.append([MAJORITY, fold, *score(task, test, *majority(task, train, test)).values(), None])
    sizes = {name: table.shape[1] for name, table in vectors.items()}
    summary = _summary(lines, sizes, dict(runs), task, which, folds, penalties, seed)
    return Findings(
        _text(task, summary),
        [
            *_draw(request, lines, task),
            request.write_csv("probing.csv", _COLUMNS, summary),
            request.write_csv("folds.csv", ("run", "fold", *SCORES, "inverse_penalty"), lines),
        ],
    )


def _above_zero(values: list[float]) -> list[float]:
    if min(values) <= 0:
        raise UserError(f"--inverse_penalty must be numbers above 0, got {min(values):g}")
    return sorted(set(values))


def _categories(folder: Path, request: Request) -> tuple[CategoriesOfItems, int, dict[str, Any]]:
    """Categories of the items of a run's data; V; the fingerprint of the data."""
    config, _ = evaluation_config(folder, request.config, data_path=request.data_path)
    path = Path(config["data_path"]) / f"{config['dataset']}.item"
    if not path.is_file():
        raise UserError(
            f"probing needs the items' categories, a column of {path} that category_field names; put it there"
        )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning, module="recbole")
        dataset = checked_dataset(config.entry.dataset_class)(config)
    return dataset.item_categories(), dataset.item_num, data_fingerprint(Path(config["data_path"]), dataset)


def task_of(found: CategoriesOfItems, which: str, least: int) -> Task:
    """The items to probe and their labels, without categories that have fewer than `least` items.

    Raises:
        UserError: fewer than two categories are left.
    """
    items, categories = found.items, found.categories
    if which == "first":
        first = np.concatenate(([True], items[1:] != items[:-1]))
        items, categories = items[first], categories[first]
    kept = np.flatnonzero(np.bincount(categories, minlength=len(found.names)) >= least)
    if len(kept) < 2:
        raise UserError(
            f"probing: column {found.column} has {len(kept)} categories with {least} items or more, and needs two; "
            "name another column with --category_field, or lower --least_items"
        )
    chosen = np.isin(categories, kept)
    probed, place = np.unique(items[chosen], return_inverse=True)
    labels = np.zeros((len(probed), len(kept)), dtype=bool)
    labels[place, np.searchsorted(kept, categories[chosen])] = True
    left = len(np.unique(items)) - len(probed)
    logger.info(
        "column %s: %d items of %d categories%s",
        found.column,
        len(probed),
        len(kept),
        f"; {left} items of categories with fewer than {least} are left out" * bool(left),
    )
    single = bool((labels.sum(1) == 1).all())
    return Task(probed, labels, [found.names[number] for number in kept], single, found.column)


def item_embeddings(folder: Path, weight: str, n_items: int, fingerprint: dict[str, Any]) -> np.ndarray:
    """The item vectors (V, D) of a run's best epoch.

    Raises:
        UserError: there is no such weight, or it is of other data.
    """
    path = RunFolder.open(folder).best
    stored = read_checkpoint(path)
    check_same_data(stored.facts.get("data"), fingerprint, path, same_files=True)
    weights = stored.part("model")
    if weight not in weights or weights[weight].dim() != 2 or len(weights[weight]) not in (n_items, n_items + 1):
        fit = [name for name, value in weights.items() if value.dim() == 2 and len(value) in (n_items, n_items + 1)]
        raise UserError(
            f"{path}: has no weight {weight!r} with a vector for each of the {n_items} items; "
            f"--embedding may be {' or '.join(fit) if fit else 'none of its weights'}"
        )
    table: np.ndarray = weights[weight][:n_items].double().numpy()  # BERT4Rec has one more, for its mask
    return table


def split(task: Task, folds: int, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """(training, test) places among the N items, a pair a fold; with one label an item every fold has its share."""
    from sklearn.model_selection import KFold, StratifiedKFold

    kind = StratifiedKFold if task.single else KFold
    parts = kind(folds, shuffle=True, random_state=seed).split(task.items, task.labels.argmax(1))
    return [(train, test) for train, test in parts]


def probe(
    table: np.ndarray, task: Task, train: np.ndarray, test: np.ndarray, penalty: float, name: str
) -> tuple[np.ndarray, np.ndarray]:
    """Train on some items, and judge others.

    Every dimension is scaled to mean 0 and deviation 1 on the training items, so that the penalty means the same for
    embeddings of any size.

    Args:
        table: (V, D).
        task: what to predict.
        train, test: places among the N items.
        penalty: scikit-learn's C, the inverse of the penalty's strength.
        name: of the run, for messages.

    Returns:
        Probabilities (test, C); which categories each item is said to have.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.multiclass import OneVsRestClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    linear = LogisticRegression(C=penalty, max_iter=ITERATIONS)
    classifier = make_pipeline(StandardScaler(), linear if task.single else OneVsRestClassifier(linear))
    wanted = task.labels[train].argmax(1) if task.single else task.labels[train].astype(int)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        classifier.fit(table[task.items[train]], wanted)
    if any(issubclass(warning.category, ConvergenceWarning) for warning in caught):
        logger.warning("%s: the probe had not converged after %d iterations", name, ITERATIONS)
    found = np.asarray(classifier.predict_proba(table[task.items[test]]))
    probabilities = np.zeros((len(test), len(task.names)))
    probabilities[:, np.unique(wanted) if task.single else slice(None)] = found
    return probabilities, _one_each(probabilities) if task.single else probabilities > 0.5


def best_penalty(
    table: np.ndarray, task: Task, train: np.ndarray, penalties: list[float], seed: int, name: str
) -> float:
    """The value of C, ascending, that a quarter of the training items is likeliest under; the test items are not seen.

    Arguments are those of `probe`; `seed` draws the quarter.
    """
    if len(penalties) == 1:
        return penalties[0]
    own = Task(task.items[train], task.labels[train], task.names, task.single, task.column)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a category may have fewer than four of them
        fitted, held = split(own, 4, seed)[0]
    losses = []
    for penalty in penalties:
        probabilities, _ = probe(table, own, fitted, held, penalty, name)
        right = np.where(own.labels[held], probabilities, 1.0 if own.single else 1.0 - probabilities)
        losses.append(-np.log(np.maximum(right, 1e-12)).sum())
    return penalties[int(np.argmin(losses))]


def majority(task: Task, train: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The training items' shares of categories for every item: as `probe`, of a vector that says nothing."""
    probabilities = np.broadcast_to(task.labels[train].mean(0), (len(test), len(task.names)))
    return probabilities, _one_each(probabilities) if task.single else probabilities > 0.5


def _one_each(probabilities: np.ndarray) -> np.ndarray:
    """(n, C) the likeliest category of each item alone."""
    best = np.zeros(probabilities.shape, dtype=bool)
    best[np.arange(len(best)), probabilities.argmax(1)] = True
    return best


def score(task: Task, test: np.ndarray, probabilities: np.ndarray, said: np.ndarray) -> dict[str, float]:
    """SCORES of what was said of the items at some places."""
    from sklearn.metrics import f1_score

    labels = task.labels[test]
    accuracy = float(labels[np.arange(len(test)), probabilities.argmax(1)].mean())
    macro, micro = (float(f1_score(labels, said, average=kind, zero_division=0)) for kind in ("macro", "micro"))
    return {"accuracy": accuracy, "macro_f1": macro, "micro_f1": micro}


_COLUMNS = (
    *("run", "folder", "D"),
    *(column for name in SCORES for column in (name, f"{name}_deviation")),
    *("items", "categories", "category_field", "labels", "folds", "inverse_penalty", "seed"),
)


def _summary(
    lines: list[list[Any]],
    sizes: dict[str, int],
    folders: dict[str, Path],
    task: Task,
    which: str,
    folds: int,
    penalties: list[float],
    seed: int,
) -> list[list[Any]]:
    """A line of _COLUMNS for each run and reference: mean and sample standard deviation over folds."""
    rows = []
    for name in dict.fromkeys(line[0] for line in lines):
        cells: list[Any] = [name, folders.get(name), sizes.get(name)]
        for place in range(2, 2 + len(SCORES)):
            found = summarise([line[place] for line in lines if line[0] == name])
            cells += [found.mean, found.deviation]
        tried = " ".join(f"{penalty:g}" for penalty in penalties)
        rows.append([*cells, len(task.items), len(task.names), task.column, which, folds, tried, seed])
    return rows


def _text(task: Task, summary: list[list[Any]]) -> str:
    header = ["vectors", "D", *(column for name in SCORES for column in (name, "±"))]
    rows = [[line[0], *line[2 : 3 + 2 * len(SCORES)]] for line in summary]
    kind = "one category each" if task.single else "any number of categories"
    title = f"column {task.column}: {len(task.items)} items, {len(task.names)} categories, {kind}"
    return "\n".join([title, text_table(header, rows)])


def _draw(request: Request, lines: list[list[Any]], task: Task) -> list[Any]:
    names = [name for name in dict.fromkeys(line[0] for line in lines) if name != MAJORITY]
    figure, (panel,) = new_figure(width=max(3.6, 1.2 + 0.9 * len(names)))
    for place, name in enumerate(names):
        found = summarise([line[2] for line in lines if line[0] == name])
        style = bar_style(place) | ({"color": GREY} if name.startswith("random, D = ") else {})
        panel.bar(place, found.mean, 0.7, yerr=found.deviation, capsize=3, **style)
    reference = summarise([line[2] for line in lines if line[0] == MAJORITY]).mean
    panel.axhline(reference, color="black", linestyle="--", linewidth=1, label="most frequent category")
    slanted = {"rotation": 20, "ha": "right"} if len(names) > 3 else {}
    panel.set_xticks(range(len(names)), names, **slanted)
    panel.set_ylabel(f"accuracy, {len(task.names)} categories ({task.column})")
    panel.grid(False, axis="x")
    panel.legend(frameon=False, fontsize=8, loc="lower left", bbox_to_anchor=(0.0, 1.0))
    return save(figure, request.output / "probing", about="accuracy of a linear probe of items' categories")
