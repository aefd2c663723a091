"""The table of benchmarks/suite_overhead.py."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from markdown_tables import number, table


def render_suite_overhead(raw: Mapping[str, Any], name: str) -> str:
    """Each pair, then what the suite adds."""
    rows = [
        [
            str(place),
            number(pair["bare"]["wall"], 1),
            number(pair["suite"]["wall"], 1),
            number(pair["bare"]["processor"], 1),
            number(pair["suite"]["processor"], 1),
        ]
        for place, pair in enumerate(raw["pairs"], start=1)
    ]
    found, machine, others = raw["summary"], raw["machine"], raw["load"]["cores_busy_with_others"]
    return "\n".join(
        [
            f"# The suite {raw['suite']} beside its bare runs\n",
            f"{raw['pairs'][0]['commands']} runs and further evaluations, one at a time, one thread each.\n",
            table(["pair", "bare, s", "suite, s", "bare, CPU s", "suite, CPU s"], rows),
            f"The suite adds {_share(found['wall'])} of wall-clock time (aim: under {100 * found['aim']:g} %; "
            f"{'met' if found['met'] else 'not met'}) and {_share(found['processor'])} of CPU time: checking all "
            "configurations, finding data in the cache, starting processes, tables and report.\n",
            f"{machine['processor']}, {machine['cores']} cores, Python {machine['python']}, torch {machine['torch']}; "
            f"code {raw['code']}, {raw['time']}; cores busy with other processes meanwhile: "
            f"{'unknown' if others is None else others}. `{raw['command']}`. Raw figures: {name}.json.\n",
        ]
    )


def _share(found: Mapping[str, float]) -> str:
    shares = [100 * found[key] for key in ("median", "min", "max")]
    return f"{shares[0]:.1f} % ({shares[1]:.1f} to {shares[2]:.1f})"
