"""The tables of the benchmarks of sweeps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from markdown_tables import number, table

LEAST_SOONER, MOST_OVERHEAD = 1.6, 0.1


def render_tune_concurrency(raw: Mapping[str, Any], name: str) -> str:
    """benchmarks/tune_concurrency.py: each repeat, then the aims."""
    found = raw["summary"]
    rows = [
        [
            str(place),
            number(sum(repeat["loop"]), 1),
            number(repeat["one"]["seconds"], 1),
            number(repeat["two"]["seconds"], 1),
            number(repeat["one"]["seconds"] / repeat["two"]["seconds"]),
        ]
        for place, repeat in enumerate(raw["repeats"], start=1)
    ]
    low, high = found["overhead_spread"]
    return "\n".join(
        [
            "# Trials at a time\n",
            *_tried(raw),
            f"{raw['trials']} trials of {raw['model']} on {raw['dataset']}, {raw['epochs']} epochs, one core each.\n",
            table(["repeat", "without Ray, s", "one at a time, s", "two at a time, s", "times sooner"], rows),
            f"Two at a time are done {number(found['sooner'])} times sooner (aim: {LEAST_SOONER}; "
            f"{_met(found['sooner'] >= LEAST_SOONER)}). After the first trial Ray adds {_percent(found['overhead'])} "
            f"({_percent(low)} to {_percent(high)}) to a trial of {number(found['trial_seconds'], 1)} s (aim: under "
            f"{_percent(MOST_OVERHEAD)} of a trial of a minute; {_met(found['overhead'] < MOST_OVERHEAD)}). "
            f"{found['from_cache']} of {found['trials']} trials took the data from the cache.\n",
            _source(raw, name),
        ]
    )


def render_tune_asha(raw: Mapping[str, Any], name: str) -> str:
    """benchmarks/tune_asha.py: each sweep, then the aims."""
    rows = [
        [
            f"{found['seed']}, {found['scheduler']}",
            number(found["best"], 4),
            str(found["epochs"]),
            number(found["seconds"], 0),
        ]
        for found in raw["sweeps"]
    ]
    settings, found, enough = raw["settings"], raw["summary"], raw["enough"]
    return "\n".join(
        [
            "# ASHA against full runs\n",
            *_tried(raw),
            f"{settings['trials']} configurations of DiffuRec on {raw['dataset']}, {settings['epochs']} epochs; ASHA "
            f"with grace period {settings['grace_period']} and factor {settings['reduction_factor']:g}.\n",
            table(["seed, scheduler", "best NDCG@10 (validation)", "epochs", "s"], rows),
            f"Mean best score of ASHA: {number(found['score'], 3)} of the full runs' (aim: {enough['score']}; "
            f"{_met(found['score'] >= enough['score'])}) with {number(found['epochs'], 3)} of their epochs (aim: under "
            f"{enough['epochs']}; {_met(found['epochs'] < enough['epochs'])}).\n",
            _source(raw, name),
        ]
    )


def _tried(raw: Mapping[str, Any]) -> list[str]:
    return ["**Tiny sizes, to see that the command works: these numbers mean nothing.**\n"] if raw["try_out"] else []


def _met(met: bool) -> str:
    return "met" if met else "not met"


def _percent(share: float) -> str:
    return f"{number(100 * share, 1)} %"


def _source(raw: Mapping[str, Any], name: str) -> str:
    machine, others = raw["machine"], raw["load"]["cores_busy_with_others"]
    return (
        f"{machine['processor']}, {machine['cores']} cores, Python {machine['python']}, torch {machine['torch']}; code "
        f"{raw['code']}, {raw['time']}; cores busy with other processes meanwhile (Ray's workers among them): "
        f"{'unknown' if others is None else others}. `{raw['command']}`. Raw figures: {name}.json.\n"
    )
