"""README.md of an export: what the model is, how good, how it is used, and what is known of licences.

It says what the run's files say, and that something is unknown where they do not. The program in it is complete; a test
executes it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import yaml

from recbole_diffusion.export.manifest import Exported
from recbole_diffusion.recommendation.checkpoints import modules_of_parts

_SAFETENSORS = """\
from recbole_diffusion import Recommender

recommender = Recommender.load("."{own_code})  # this folder; data are not needed
items, scores = recommender.recommend([{history}], k=10)
print(items[0])
"""
_PROGRAM = """\
import csv

import numpy as np
{imports}

tokens = [row["item_id"] for row in csv.DictReader(open("items.csv", encoding="utf-8", newline=""))]
number = {{token: row for row, token in enumerate(tokens)}}
history = [number[token] for token in {history}]  # tokens of items, oldest first
latest = history[-{length}:]  # what the model reads
item_seq = np.zeros((1, {length}), dtype=np.int64)  # 0 after the last item; any number of rows
item_seq[0, : len(latest)] = latest
{call}  # (1, {vectors}, {dim})
items = np.load("item_vectors.npy")  # ({count}, {dim}); row 0 is padding
{scores}
scores[:, 0] = -np.inf
{seen}print([tokens[row] for row in np.argsort(-scores[0], kind="stable")[:10]])
"""
_CALLS = {
    "onnx": (
        "import onnxruntime",
        'session = onnxruntime.InferenceSession("{file}")\nusers = session.run(None, {inputs})[0]',
    ),
    "torchexport": (
        "import torch",
        'program = torch.export.load("{file}").module()\nusers = program({inputs}).numpy()',
    ),
}
_SCORES = {
    "dot": "scores = (users @ items.T).max(1)",
    "cosine": (
        "items = items / np.maximum(np.linalg.norm(items, axis=1, keepdims=True), 1e-12)\n"
        "users = users / np.maximum(np.linalg.norm(users, axis=2, keepdims=True), 1e-12)\n"
        "scores = (users @ items.T).max(1)"
    ),
    "neg_sq_dist": (
        "squares = (users**2).sum(2)[:, :, None] + (items**2).sum(1)\n"
        "scores = -np.maximum(squares - 2 * (users @ items.T), 0).min(1)"
    ),
}
_FORMATS = {
    "safetensors": "weights and configuration, for this package (`recbole_diffusion`); no code is in it",
    "torchexport": "a program of torch.export; `torch.export.load` may execute code that a file brings along, so open "
    "this one only if you trust where it comes from",
    "onnx": "an ONNX program, for any ONNX runtime; no code is in it",
}


def card(exported: Exported, tokens: list[str]) -> str:
    """The text.

    Args:
        exported: what there is to say.
        tokens: one or two tokens of items, for the program.
    """
    parts = [
        f"# {exported.model} on {exported.config['dataset']}",
        _about(exported),
        "## Files\n\n" + _files(exported),
        "## Use\n\n" + _use(exported, tokens),
        "## Data\n\n" + _data(exported),
        "## Test metrics\n\n" + _metrics(exported),
        "## Verified\n\n" + _verified(exported),
        "## Training\n\n" + _training(exported),
        "## Licence\n\n" + _licence(exported),
    ]
    return "\n\n".join(parts) + "\n"


def _about(exported: Exported) -> str:
    inference, (vectors, dim, items, length) = exported.inference, exported.shapes
    lines = [
        f"Recommends the next of {items - 1:,} items from the latest {length} items of a history: {vectors} user "
        f"vector{'s' * (vectors > 1)} of {dim} numbers, scored against item vectors (`{exported.score}`"
        + (f", the best of the {vectors} counts)." if vectors > 1 else ").")
    ]
    if exported.paper:
        lines.append(f"The model: {exported.paper}.")
    if inference.chains:
        lines.append(
            f"A history is answered by {inference.chains} reverse chain{'s' * (inference.chains > 1)} of "
            f"{inference.reverse_steps} step{'s' * (inference.reverse_steps > 1)}."
        )
    if inference.draws_noise:
        by = "`row_key`, an input of the program" if exported.row_keys else "the history itself"
        lines.append(f"Its noise is computed from the seed {exported.config['eval_seed']} and {by}: it repeats.")
    return "\n".join(lines)


def _files(exported: Exported) -> str:
    rows = [
        (exported.program, f"from histories to user vectors: {_FORMATS[exported.form]}"),
        ("item_vectors.npy", "float32, row i the vector of item i; row 0 is padding"),
        ("items.csv", "the token of each row in the data"),
        ("export.json", "all of this for programs, with the SHA-256 of every file"),
    ]
    if exported.form == "safetensors":
        rows.insert(
            3, ("items.parquet", "the same tokens with each item's training rows, which building a model may read")
        )
    return "\n".join(["| file | what |", "|---|---|", *(f"| `{name}` | {about} |" for name, about in rows)])


def _use(exported: Exported, tokens: list[str]) -> str:
    if exported.form == "safetensors":
        modules = sorted(set(modules_of_parts(exported.config.to_plain()).values()))
        own_code = f", own_code={json.dumps(modules)}" if modules else ""
        text = _SAFETENSORS.format(history=json.dumps(tokens, ensure_ascii=False), own_code=own_code)
        return f"```python\n{text}```"
    vectors, dim, count, length = exported.shapes
    imports, call = _CALLS[exported.form]
    key = "np.array([0])"  # of the one row
    if exported.form == "onnx":
        inputs = '{"item_seq": item_seq' + (f', "row_key": {key}' if exported.row_keys else "") + "}"
    else:
        inputs = "torch.from_numpy(item_seq)" + (f", torch.from_numpy({key})" if exported.row_keys else "")
    text = _PROGRAM.format(
        imports=imports,
        history=json.dumps(tokens, ensure_ascii=False),
        length=length,
        call=call.format(file=exported.program, inputs=inputs),
        vectors=vectors,
        dim=dim,
        count=count,
        scores=_SCORES[exported.score],
        seen="scores[0, history] = -np.inf  # all of it, also what the model does not read\n"
        if exported.config["filter_seen"]
        else "",
    )
    return f"```python\n{text}```\n\nA row of zeros, a history without an item, has no vectors: they are NaN."


def _data(exported: Exported) -> str:
    data: Mapping[str, Any] = exported.run.get("data") or {}
    lines = [
        f"`{exported.config['dataset']}`" + (f", {data['users']:,} users and {data['items']:,} items" if data else "")
    ]
    for name, digest in (data.get("files") or {}).items():
        lines.append(f"- `{name}`: SHA-256 {digest}")
    if data:
        lines.append(f"- ids of users and items: SHA-256 {data['ids']}")
    lines.append("\nThe tokens in `items.csv` are the data's.")
    return "\n".join(lines)


def _metrics(exported: Exported) -> str:
    test = exported.result.get("test_result") or {}
    if not test:
        return "Unknown: there is no finished result of the run beside its weights."
    protocol = exported.result.get("protocol") or {}
    words = [f"Protocol `{protocol.get('protocol')}`" if protocol.get("protocol") else "The run's protocol"]
    words.append("all items ranked" if (protocol.get("eval_args") or {}).get("mode", {}).get("test") == "full" else "")
    if exported.result.get("seed") is not None:
        words.append(f"one run, seed {exported.result['seed']}")
    table = ["| metric | test |", "|---|---:|", *(f"| {name} | {value:.6f} |" for name, value in test.items())]
    text = ", ".join(filter(None, words)) + ".\n\n" + "\n".join(table)
    if exported.overrides:
        changed = ", ".join(f"{key}: {value}" for key, value in exported.overrides.items())
        text += (
            f"\n\nThese are of the run as it was trained and tested. The export changes {changed}; with that it was "
            "not tested."
        )
    return text


def _verified(exported: Exported) -> str:
    found = exported.verification
    sizes = ", ".join(map(str, found.batch_sizes))
    return (
        f"Read back from its file and run by {found.runtime} on {found.histories}, {sizes} at a time, against the "
        f"model in PyTorch: the largest difference of an entry is {found.largest_difference:.2g}, relative to the "
        f"largest entry of its row {found.largest_relative_difference:.2g} (allowed: {found.tolerance:g}); the best "
        f"{found.list_length} items are the same in the same order for {found.equal_lists:.2%} of the rows."
    )


def _training(exported: Exported) -> str:
    keys = {key: value for key, value in exported.config.hyper_parameters().items() if value is not None}
    versions = exported.run.get("versions") or {}
    lines = [f"With {', '.join(f'{name} {version}' for name, version in versions.items())}." if versions else ""]
    text = yaml.safe_dump(keys, sort_keys=False, allow_unicode=True, default_flow_style=None, width=120)
    return "\n\n".join(filter(None, [*lines, f"```yaml\n{text}```"]))


def _licence(exported: Exported) -> str:
    data = f"**{exported.licence}**, as given when this was exported." if exported.licence else "**unknown**."
    return (
        "The code that made this, recbole-diffusion, has the MIT licence. That says nothing of the data, nor of what "
        "was made from them: weights, item vectors and tokens.\n\n"
        f"Licence of the data: {data}"
        + ("" if exported.licence else " Find out what it allows before you pass this folder on.")
    )
