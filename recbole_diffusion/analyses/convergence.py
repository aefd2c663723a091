"""Convergence: a validation metric against epochs and against training time, of several runs.

The same curve twice, because a model that needs few epochs may need long ones. Time is that of training alone
(`train_seconds` of metrics.csv, summed up); validation is left out, since models validate at different intervals.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from recbole_diffusion.analyses.request import Findings, Request
from recbole_diffusion.analyses.text_table import text_table
from recbole_diffusion.analyses.training_curves import (
    SECONDS,
    VALID,
    TrainingCurve,
    by_label,
    columns_of,
    draw_curves,
    mean_curve,
    plain,
    read_curves,
    time_axis,
)
from recbole_diffusion.benchmarking.comparability import check_seeds, check_table
from recbole_diffusion.benchmarking.metric_names import bigger_is_better, factor, metric_key, printed_name, unit
from recbole_diffusion.benchmarking.results import CONFIG, settings, values_of
from recbole_diffusion.errors import UserError
from recbole_diffusion.pictures import legend_below, new_figure, save


def analyse(request: Request) -> Findings:
    """Draw the validation metrics of `runs` or a `suite` against epochs and training time.

    Raises:
        UserError: no runs, none has the metric, runs that must not be compared.
    """
    texts, files = [], []
    tables = read_curves(request)
    for table, curves in tables.items():
        stem = "convergence" if len(tables) == 1 else f"convergence_{table}"
        groups = by_label(curves)
        notes = check_table([curve.run for curve in curves], ())
        for label, seeds in groups.items():
            notes += check_seeds(label, [seed.run for seed in seeds], ())
        metrics = _metrics(request, table, curves)
        files += save(_drawn(table, groups, metrics), request.output / stem, about=f"convergence on {table}")
        files.append(_write_epochs(request, stem, curves))
        files.append(_write_means(request, stem, groups, metrics))
        texts.append("\n".join([_summary(table, groups, metrics[0]), *notes, *_other_places(curves)]))
    return Findings("\n\n".join(texts), files)


def _metrics(request: Request, table: str, curves: Sequence[TrainingCurve]) -> list[str]:
    """Which metrics are drawn: those of the key `metric`, or what the first run chose its best epoch by."""
    there = [name.removeprefix(VALID) for name in columns_of(curves, lambda name: name.startswith(VALID))]
    there = [name for name in there if name != "seconds"]
    if not there:
        raise UserError(f"no run on {table} was validated, so there is nothing to draw; train with eval_step above 0")
    asked = request.options.get("metric", "").replace(",", " ").split()
    if not asked:
        first = curves[0].run.folder
        chosen = values_of(settings(first), first / CONFIG, ["valid_metric"]).get("valid_metric", there[0])
        asked = [str(chosen)]
    keys = list(dict.fromkeys(map(metric_key, asked)))
    for key in keys:
        if key not in there:
            raise UserError(
                f"no run on {table} validated {printed_name(key)}; --metric may be "
                + ", ".join(map(printed_name, there))
            )
    return keys


def _drawn(table: str, groups: Mapping[str, Sequence[TrainingCurve]], metrics: Sequence[str]) -> Any:
    figure, panels = new_figure(2, len(metrics))
    places = _places([curve for seeds in groups.values() for curve in seeds])
    differ = len(places) > 1
    unit_name, unit_seconds = time_axis([curve for seeds in groups.values() for curve in seeds])
    if differ:
        groups = {
            f"{label}, {' and '.join(place for place, labels in places.items() if label in labels)}": seeds
            for label, seeds in groups.items()
        }
    for row, metric in enumerate(metrics):
        by_epoch, by_time = panels[2 * row : 2 * row + 2]
        column, scale = VALID + metric, factor(metric)
        draw_curves(by_epoch, groups, column, scale=scale)
        draw_curves(by_time, groups, column, scale=scale, seconds=True, time_unit=unit_seconds)
        by_time.set_xlabel(f"training time, {unit_name}" + ", not comparable: devices differ" * differ)
        words = [printed_name(metric), "validation", unit(metric)]
        by_epoch.set_ylabel(", ".join(word for word in words if word))
        for panel in (by_epoch, by_time):
            panel.set_xlim(left=0)
    legend_below(figure, panels)
    figure.suptitle(table, fontsize=11)
    return figure


def _write_epochs(request: Request, stem: str, curves: Sequence[TrainingCurve]) -> Any:
    """Every validated epoch of every run, all metrics as results have them."""
    columns = columns_of(curves, lambda name: name.startswith(VALID) and name != "valid_seconds")
    rows = []
    for curve in curves:
        own = curve.epochs.reindex(columns=[SECONDS, *columns])
        for epoch, values in own.dropna(how="all", subset=columns).iterrows():
            rows.append([curve.label, curve.run.seed, epoch, *map(plain, values)])
    header = ["run", "seed", "epoch", "train_seconds", *columns]
    return request.write_csv(f"{stem}.csv", header, rows)


def _write_means(
    request: Request, stem: str, groups: Mapping[str, Sequence[TrainingCurve]], metrics: Sequence[str]
) -> Any:
    """The lines and bands of the picture."""
    rows = []
    for label, seeds in groups.items():
        for metric in metrics:
            for epoch, row in mean_curve(seeds, VALID + metric).iterrows():
                numbers = map(plain, row[[SECONDS, "mean", "std"]])
                rows.append([label, metric, epoch, len(seeds), *numbers])
    header = ["run", "metric", "epoch", "seeds", "train_seconds", "mean", "std"]
    return request.write_csv(f"{stem}_means.csv", header, rows)


def _summary(table: str, groups: Mapping[str, Sequence[TrainingCurve]], metric: str) -> str:
    """Each line's best epoch, found seed by seed and then averaged."""
    column, scale = VALID + metric, factor(metric)
    rows = []
    for label, seeds in groups.items():
        best: list[tuple[float, float, float]] = []
        for seed in seeds:
            values = seed.epochs.get(column)
            if values is not None and values.notna().any():
                place = int(values.argmax() if bigger_is_better(metric) else values.argmin())  # nan is passed over
                value, seconds = float(values.iloc[place]) * scale, float(seed.epochs[SECONDS].iloc[place])
                best.append((value, float(seed.epochs.index[place]), seconds))
        if not best:
            rows.append([label, "0", "", "", "", "", ""])
            continue
        value, epoch, seconds = (sum(of_seeds) / len(best) for of_seeds in zip(*best, strict=True))
        trained = sum(len(seed.epochs) for seed in seeds) / len(seeds)
        whole = sum(seed.epochs[SECONDS].max() for seed in seeds) / len(seeds)
        at_best = [f"{value:.4f}", f"{epoch:g}", f"{seconds:.1f}"]
        rows.append([label, f"{len(best)}", *at_best, f"{trained:g}", f"{whole:.1f}"])
    head = ["", "seeds", f"best {printed_name(metric)}", "at epoch", "after s", "epochs", "s in all"]
    return f"{table}, validation, {unit(metric) or 'value'}, means over seeds\n{text_table(head, rows)}"


def _places(curves: Sequence[TrainingCurve]) -> dict[str, dict[str, None]]:
    """Device and number of threads -> the labels that were trained there."""
    places: dict[str, dict[str, None]] = {}
    for curve in curves:
        folder = curve.run.folder
        place = curve.run.device  # with its number of threads
        if place is None:
            threads = values_of(settings(folder), folder / CONFIG, ["num_threads"]).get("num_threads")
            place = f"a device not recorded yet with num_threads {threads or 'not set'}"
        places.setdefault(place, {})[curve.label] = None
    return places


def _other_places(curves: Sequence[TrainingCurve]) -> list[str]:
    """Times of unlike devices or numbers of threads are no comparison; a line that says so."""
    places = _places(curves)
    if len(places) < 2:
        return []
    said = [f"{', '.join(labels)} on {place}" for place, labels in places.items()]
    return ["Times are no comparison: " + "; ".join(said)]
