"""Table of few-step inference beside the plain implementation and RecBole's SASRec."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from markdown_tables import number, table


def render_inference_speed(raw: Mapping[str, Any], name: str) -> str:
    """Tables of benchmarks/inference_speed.py."""
    settings, machine, aims = raw["settings"], raw["machine"], raw["aims"]
    names = {
        "plain": f"plain implementation, {settings['num_steps']} steps",
        "sasrec": "RecBole's SASRec of equal size",
        "full": f"ours, {settings['num_steps']} steps",
        "one": "ours, 1 step",
        "chosen": f"ours, {settings['chosen']} steps (chosen by auto)",
        "compiled": "ours, 1 step, torch.compile",
    }
    text = [f"# DiffuRec's inference in few steps ({settings['dataset']}, {machine['device']})\n"]
    if settings["try_out"]:
        text.append("**A few users, to see that the command works: the numbers mean nothing.**\n")
    met: list[list[str]] = []
    if "throughput" in raw:
        found = raw["throughput"]
        rows = []
        for side, rates in found["sides"].items():
            ratios = found["ratios"].get(side, {})
            cells = [
                f"{number(ratios[other]['median'])} ({number(ratios[other]['min'])} to {number(ratios[other]['max'])})"
                if ratios
                else ""
                for other in ("plain", "sasrec")
            ]
            rows.append([names[side], number(rates["median"], 1), *cells])
        text.append(
            f"## Top {found['top_k']} of {settings['items']:,} items, users a second\n\n"
            "User vectors, scores of all items and the best of them; ratios are medians over rounds (smallest to "
            "largest).\n"
        )
        text.append(table(["", "users/s, median", "times the plain one's", "times SASRec's"], rows))
        ratios = found["ratios"].get("chosen", found["ratios"]["one"])
        for other, least in (("plain", aims["plain"]), ("sasrec", aims["sasrec"])):
            value = ratios[other]["median"]
            what = f"users/s, at least {number(least)} times those of: {names[other]}"
            met.append([what, number(value), "yes" if value >= least else "no"])
    if "quality" in raw:
        found = raw["quality"]
        rows = [
            [
                names[side],
                *(number(100 * found["all"][side][metric], 4) if side in found["all"] else "" for metric in _METRICS),
                *(number(100 * values[metric], 4) for metric in _METRICS),
            ]
            for side, values in found["same"].items()
        ]
        text.append("## The same checkpoint's quality, %\n")
        whole, drawn = f"{found['users']:,} users", f"{found['drawn']:,} users"
        text.append(
            table(["", *(f"{shown}, {users}" for users in (whole, drawn) for shown in ("NDCG@10", "HR@10"))], rows)
        )
        side = "chosen" if "chosen" in found["same"] else "one"
        lost = found["same"][side]["ndcg@10"] / max(found["same"]["plain"]["ndcg@10"], 1e-12) - 1
        what = f"NDCG@10 within {100 * aims['ndcg']:g} % of the plain one's, same users"
        met.append([what, f"{100 * lost:+.2f} %", "yes" if abs(lost) <= aims["ndcg"] else "no"])
    if "latency" in raw:
        found = raw["latency"]
        rows = []
        for side, clocks in found["sides"].items():
            shown = "`full_sort_predict` of RecBole's SASRec" if side == "sasrec" else f"`recommend`, {names[side][6:]}"
            rows.append([shown, *(number(clocks[clock][q]) for clock in ("wall", "cpu") for q in _QUANTILES)])
        for side, clocks in found["ratios"].items():
            cells = [number(clocks[clock][q]) for clock in ("wall", "cpu") for q in _QUANTILES]
            rows.append([f"ratio, {names[side][6:]}", *cells])
        text.append(f"## One user at a time, ms ({found['users']:,} users)\n")
        text.append(table(["", *(f"{clock} {q}" for clock in ("wall", "CPU") for q in _QUANTILES)], rows))
        value = found["ratios"].get("chosen", found["ratios"]["one"])["wall"]["p99"]
        met.append(
            [
                f"p99 under {number(aims['latency'], 0)} times SASRec's",
                number(value),
                "yes" if value < aims["latency"] else "no",
            ]
        )
    text.append("## Aims\n")
    text.append(table(["", "measured", "met"], met))
    load = machine["load"]
    before = load["average_before"]
    text.append("## How it was measured\n")
    sizes = ("hidden_size", "n_layers", "n_heads", "MAX_ITEM_LIST_LENGTH", "num_steps", "mask_mode")
    text.append(
        table(
            ["", ""],
            [
                ["command", f"`{raw['command']}`"],
                ["code", str(raw["code_version"])],
                ["measured", raw["measured"]],
                ["run", f"{settings['run']}: " + ", ".join(f"{key} {settings[key]}" for key in sizes)],
                ["machine", f"{machine['processor']}, {machine['cores']} cores, {machine['threads']} threads"],
                ["device", machine["device"]],
                ["versions", f"Python {machine['python']}, torch {machine['torch']}"],
                ["load average before (1, 5, 15 minutes)", ", ".join(map(str, before)) if before else "–"],
                ["cores busy with other processes, mean", number(load["cores_busy_with_others"])],
                ["rounds; rows of a batch", f"{settings['repeats']}; {settings['batch_size']:,}"],
                ["with every random number fixed, the two differ by", f"{raw['parity']['worst']:.1e}"],
            ],
            align="---",
        )
    )
    text.append(f"Raw file: [{name}.json]({name}.json).\n")
    return "\n".join(text)


_METRICS = ("ndcg@10", "hit@10")
_QUANTILES = ("p50", "p90", "p99")
