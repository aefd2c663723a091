"""Tables of test metrics beside published ones: one a dataset and protocol, and one of every model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markdown_tables import number, signed, table
from quality_runs import Run


def render_quality(name: str, runs: Sequence[Run], published: Sequence[Mapping[str, Any]]) -> str:
    """Table of the runs on one dataset by one protocol beside the published figures."""
    columns = runs[0].columns
    text = [f"# Quality on {runs[0].dataset}: {columns.protocol}, full ranking, test metrics in percent\n"]
    rows: list[list[str]] = []
    targets = list(dict.fromkeys(run.compare_with for run in runs))
    for target in targets:
        members = [run for run in runs if run.compare_with == target]
        for run in members:
            rows.append([run.label] + [number(run.test_metrics().get(metric), 4) for metric in columns.metrics])
        for source in published:
            printed = source["values"].get(name, {}).get(target)
            if printed is None:
                continue
            rows.append(
                [f"{target} in the {source['short']}"] + [number(printed.get(metric), 4) for metric in columns.metrics]
            )
            for run in members:
                got = run.test_metrics()
                if got:
                    away = [
                        got[metric] - printed[metric] if {metric} <= got.keys() & printed.keys() else None
                        for metric in columns.metrics
                    ]
                    rows.append([f"{run.label}: difference"] + [signed(value) for value in away])
    notes = [
        f"{run.label}: unfinished, {len(run.epochs)} epochs so far; no test metrics yet.\n"
        for run in runs
        if not run.test_metrics()
    ]
    text.append(table(["run", *columns.metrics], rows))
    text += notes
    for source in published:
        if any(target in source["values"].get(name, {}) for target in targets):
            text.append(f"{source['short']}: {source['source']} ({source['protocol']}).\n")
    text.append("## Best validation, and what it took\n")
    text.append(
        table(
            [
                "run",
                f"best validation {columns.chosen_by}",
                "at epoch",
                "epochs",
                "s per epoch",
                "device",
                "seed",
                "wall time, h",
            ],
            [effort(run) for run in runs],
        )
    )
    text.append(f"![Validation metrics by epoch](learning_curves_{name}.svg)\n")
    text.append(f"The numbers behind the curves: [learning_curves_{name}.csv](learning_curves_{name}.csv).\n")
    text.append("## Commands\n")
    for run in runs:
        command = run.facts.get("command", "unfinished, see its configuration")
        text.append(f"{run.label}: `{command}`, {code_of(run)}; [raw files](runs/{run.name}/).\n")
    return "\n".join(text)


def code_of(run: Run) -> str:
    """Version and commit a run was made with."""
    code = run.facts.get("code")
    if not isinstance(code, Mapping):
        return "code not recorded"
    commit = str(code.get("commit") or "")[:12]
    return (
        f"version {code.get('version')}"
        + (f", commit {commit}" if commit else "")
        + (", with uncommitted changes" if code.get("modified") else "")
    )


def effort(run: Run) -> list[str]:
    """One line of the second table."""
    metric = run.columns.chosen_by
    curve = [(metrics[metric], -epoch) for epoch, metrics in run.validation_curve() if metric in metrics]
    best, epoch = max(curve, default=(None, None))
    wall = run.facts.get("wall_seconds")
    return [
        run.label,
        number(best, 4),
        "–" if epoch is None else str(-epoch),
        str(len(run.epochs)),
        number(run.seconds_per_epoch(), 1),
        str(run.facts.get("device", "–")),
        str(run.facts.get("seed", "–")),
        number(wall / 3600 if isinstance(wall, (int, float)) else None),
    ]


REFERENCE = "Popularity"  # the model that every other must beat


def render_comparison(tables: Mapping[str, Sequence[Run]], published: Sequence[Mapping[str, Any]]) -> str:
    """One table of every model's main run on each dataset: printed figure, ours, what it took."""
    text = [
        "# Every model beside what its paper printed\n",
        "Test metrics in percent, full ranking, one seed: Recall@50 where a fifth of a user's items is asked for at "
        "once (protocol `user_split_multi`), HR@50 for one next item of new users (`user_split_next`), HR@10 leave "
        "one out. A model's settings are its defaults or its paper preset; the command says which.\n",
    ]
    rows: list[list[str]] = []
    commands: list[str] = []
    for name, runs in sorted(tables.items()):
        main = [run for run in runs if run.main]
        if not main:
            continue
        metric = main[0].columns.judged_by
        floors = [run.test_metrics().get(metric) for run in main if run.facts["model"] == REFERENCE]
        floor = floors[0] if floors else None
        for run in main:
            printed = printed_figure(published, name, run.compare_with, metric)
            got = run.test_metrics().get(metric)
            share = None if printed is None or got is None else 100 * got / printed[0]
            above = (
                "–"
                if floor is None or got is None or run.facts["model"] == REFERENCE
                else "yes"
                if got > floor
                else "NO"
            )
            rows.append(
                [
                    run.label,
                    name.replace("_", ", ", 1),
                    metric,
                    "–" if printed is None else f"{number(printed[0])} ({printed[1]})",
                    number(got),
                    signed(None if printed is None or got is None else got - printed[0]),
                    "–" if share is None else f"{share:.0f} %",
                    above,
                    str(len(run.epochs)) + ("" if run.test_metrics() else ", unfinished"),
                    str(run.facts.get("device", "–")),
                    str(run.facts.get("seed", "–")),
                ]
            )
            command = run.facts.get("command", "unfinished, see its configuration")
            commands.append(
                f"{run.label}, {run.dataset}: `{command}`, {code_of(run)}; [raw files](runs/{run.name}/).\n"
            )
    header = [
        "model",
        "data",
        "metric",
        "printed",
        "ours",
        "difference",
        "of printed",
        "above popularity",
        "epochs",
        "device",
    ]
    text.append(table([*header, "seed"], rows))
    text.append("## Commands\n")
    return "\n".join([*text, *commands])


def printed_figure(
    published: Sequence[Mapping[str, Any]], name: str, model: str, metric: str
) -> tuple[float, str] | None:
    """A model's printed figure and the short name of its source; of several sources the first."""
    for source in published:
        values = source["values"].get(name, {}).get(model, {})
        if metric in values:
            return float(values[metric]), str(source["short"])
    return None
