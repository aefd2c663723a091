"""The command line: one parser and one set of words for ``recbole-diff``, ``python -m recbole_diffusion`` and
``run_recbole_diff.py``.

``WORD --key=value ...``: a few keys steer the program (model, dataset, output ...), every other key is the run's
configuration and is checked there. Values are read as safe YAML, so ``1e-3`` is a number and ``[5, 10]`` a list.
"""

from __future__ import annotations

import dataclasses
import os
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recbole_diffusion import (
    __version__,
    analyse_command,
    benchmark_command,
    compat,
    export_command,
    index_command,
    prepare_command,
    recommend_command,
    serve_command,
    tune_command,
)
from recbole_diffusion.config_files import COMMAND_LINE, Overrides, parse_value
from recbole_diffusion.config_presets import PRESETS, datasets_with_preset
from recbole_diffusion.errors import UnknownKeyError, UserError
from recbole_diffusion.model_table import OUR_MODELS
from recbole_diffusion.registry import default_file_of, load_object, model_names, nearest, properties_directory

if TYPE_CHECKING:
    from recbole_diffusion.quick_start import RunResult

WORDS: dict[str, str] = {
    "run": "train a model, keep its best epoch, test it (the word may be left out)",
    "evaluate": "rank with a checkpoint, without training",
    "prepare": "make a dataset of a CSV, TSV or Parquet file of interactions",
    "tune": "search hyper-parameters (--tune=FILE says the same)",
    "benchmark": "run a suite of models, datasets and seeds, and make its tables (--benchmark=FILE says the same)",
    "analyse": "draw what the papers show beside accuracy, with its numbers",
    "recommend": "recommend items for a history, or for a file of users",
    "index": "build the index that recommend asks with --retrieval=faiss",
    "export": "make a trained model into files for other programs: weights, torch.export, ONNX, item vectors",
    "serve": "answer requests for recommendations",
}

# Keys that steer the program; the words that take each, and what it is. Those of COMMANDS are in their modules.
OPTIONS: dict[str, tuple[tuple[str, ...], str]] = {
    "model": (("run",), "NAME of --list_models, or a class of yours as package.module:Class"),
    "dataset": (("run",), "NAME of the folder in data_path with NAME.inter; ml-100k comes with RecBole"),
    "config_files": (("run",), '"a.yaml b.yaml": configuration files, later ones win'),
    "preset": (("run",), "paper: the settings of the model's paper for this dataset; your own keys win over them"),
    "resume": (("run",), "RUN_FOLDER of a run that was cut: go on with it, in that folder"),
    "checkpoint": (("evaluate",), "RUN_FOLDER, whose best epoch is taken, or a checkpoint file"),
    "data_path": (("run", "evaluate"), "FOLDER that holds the datasets' folders (default: dataset)"),
    "output": (("run", "evaluate"), "FOLDER in which the run makes its own (default: runs)"),
}
FLAGS: dict[str, str] = {
    "help": "this text; with --model=NAME also the keys of that model",
    "list_models": "the names that --model takes",
    "version": "the version",
}
# words with keys of their own
PREPARE, TUNE, BENCHMARK, ANALYSE = "prepare", "tune", "benchmark", "analyse"
RECOMMEND, INDEX, EXPORT, SERVE = "recommend", "index", "export", "serve"
COMMANDS: dict[str, Any] = {
    PREPARE: prepare_command,
    TUNE: tune_command,
    BENCHMARK: benchmark_command,
    ANALYSE: analyse_command,
    RECOMMEND: recommend_command,
    INDEX: index_command,
    EXPORT: export_command,
    SERVE: serve_command,
}

EXAMPLES = """\
examples:
  recbole-diff --model=DiffuRec --dataset=ml-100k --epochs=3
  recbole-diff --model=SASRec --dataset=amazon-beauty --data_path=data --learning_rate=1e-3 --topk=[5,10]
  recbole-diff --model=my_package.my_model:MyModel --dataset=ml-100k --config_files="base.yaml mine.yaml"
  recbole-diff --model=DiffuRec --dataset=ml-1m --preset=paper
  recbole-diff --resume=runs/DiffuRec-ml-100k-20250101-120000
  recbole-diff evaluate --checkpoint=runs/DiffuRec-ml-100k-20250101-120000 --reverse_steps=8
  recbole-diff prepare --input=ratings.csv --dataset=mine
  recbole-diff benchmark benchmarks/suites/quick.yaml
  recbole-diff recommend --checkpoint=runs/DiffuRec-ml-100k-20250101-120000 --history="50,181,174" --top_k=20
"""


@dataclass
class Arguments:
    """A parsed command line: the word, the keys that steer the program, and the run's configuration."""

    word: str = "run"
    options: dict[str, str] = field(default_factory=dict)
    flags: set[str] = field(default_factory=set)
    config: Overrides = field(default_factory=lambda: Overrides(origin=COMMAND_LINE))


def parse(arguments: Sequence[str]) -> Arguments:
    """Parse ``[WORD] [--key=value | --key value | --flag] ...``.

    Raises:
        UserError: an unknown word, a key without value or given twice with different values, a stray argument.
    """
    parsed = Arguments()
    rest = list(arguments)
    if rest and not rest[0].startswith("-"):
        parsed.word = rest.pop(0)
        if parsed.word not in WORDS:
            hint = nearest(parsed.word, WORDS)
            raise UserError(
                f"unknown word '{parsed.word}'"
                + (f"; did you mean '{hint}'?" if hint else f"; words: {', '.join(WORDS)}")
            )
    else:
        parsed.word = next(
            (word for word in (TUNE, BENCHMARK) if any(a.partition("=")[0] == f"--{word}" for a in rest)), parsed.word
        )
    texts: dict[str, str] = {}
    positional = getattr(COMMANDS.get(parsed.word), "POSITIONAL", None)
    if positional and rest and not rest[0].startswith("-"):
        texts[positional] = rest.pop(0)
    while rest:
        argument = rest.pop(0)
        if argument == "-h":
            argument = "--help"
        if not argument.startswith("--") or argument == "--":
            raise UserError(f"cannot read '{argument}'; every argument is --key=value (see --help)")
        key, equals, text = argument[2:].partition("=")
        steering = key.replace("-", "_")
        options, own_flags = _keys_of(parsed.word)
        if steering in options or steering in FLAGS or steering in own_flags:
            key = steering
        if key in own_flags:
            parsed.flags |= {key} if not equals or _switched_on(key, text) else set()
            continue
        if key in FLAGS:
            if equals:
                raise UserError(f"--{key} takes no value, got '{text}'")
            parsed.flags.add(key)
            continue
        if not equals:
            alone = not rest or rest[0].startswith("--")
            if alone and key not in getattr(COMMANDS.get(parsed.word), "BARE", ()):
                raise UserError(f"--{key} needs a value: --{key}=...")
            text = "True" if alone else rest.pop(0)
        if not key:
            raise UserError(f"cannot read '{argument}'; every argument is --key=value (see --help)")
        if key in texts and key in getattr(COMMANDS.get(parsed.word), "REPEATED", ()):
            text = texts[key] = texts[key] + COMMANDS[parsed.word].NEXT + text
        if texts.setdefault(key, text) != text:
            raise UserError(f"--{key} is given twice, as '{texts[key]}' and as '{text}'")
    options, own_flags = _keys_of(parsed.word)
    for key, text in texts.items():
        if key in options:
            parsed.options[key] = text
        elif parsed.word == PREPARE:
            hint = nearest(key, [*options, *own_flags])
            raise UserError(f"unknown key '{key}' of prepare; " + (f"did you mean '{hint}'?" if hint else "see --help"))
        else:
            parsed.config[key] = parse_value(text)
    return parsed


def _keys_of(word: str) -> tuple[Mapping[str, object], Mapping[str, str]]:
    """The keys that steer a word, and the flags that only it has."""
    return (COMMANDS[word].OPTIONS, COMMANDS[word].FLAGS) if word in COMMANDS else (OPTIONS, {})


def _switched_on(key: str, text: str) -> bool:
    value = parse_value(text)
    if not isinstance(value, bool):
        raise UserError(f"--{key} is a switch: --{key}, --{key}=True or --{key}=False, got '{text}'")
    return value


def _check_options(parsed: Arguments) -> None:
    for key, text in parsed.options.items():
        if parsed.word in COMMANDS:
            about = COMMANDS[parsed.word].OPTIONS[key]
        else:
            words, about = OPTIONS[key]
            if parsed.word not in words:
                raise UserError(f"--{key} does not go with '{parsed.word}', only with {' and '.join(words)}")
        if not (text if key.endswith("separator") else text.strip()):
            raise UserError(f"--{key} is empty; it takes {about}")


def _split_files(text: str) -> list[str]:
    """File names in one argument, separated by blanks; a name with blanks goes in quotes."""
    try:
        names = shlex.split(text, posix=os.name != "nt")
    except ValueError as error:
        raise UserError(f"cannot read --config_files='{text}': {error}") from error
    return [name.strip("\"'") for name in names] if os.name == "nt" else names


# Words ----------------------------------------------------------------------------------------------------------------


def _run(parsed: Arguments) -> RunResult:
    from recbole_diffusion import quick_start

    options = parsed.options
    return quick_start.run(
        options.get("model"),
        options.get("dataset"),
        parsed.config,
        config_files=_split_files(options.get("config_files", "")),
        preset=options.get("preset"),
        data_path=options.get("data_path"),
        output=options.get("output"),
        resume=options.get("resume"),
    )


def _evaluate(parsed: Arguments) -> RunResult:
    from recbole_diffusion import quick_start

    options = parsed.options
    if "checkpoint" not in options:
        raise UserError("evaluate needs --checkpoint=RUN_FOLDER (or a checkpoint file)")
    return quick_start.evaluate(
        options["checkpoint"],
        parsed.config,
        data_path=options.get("data_path"),
        output=options.get("output", "runs"),
    )


_WORD_FUNCTIONS: dict[str, Callable[[Arguments], Any]] = {"run": _run, "evaluate": _evaluate}


def result_table(result: RunResult) -> str:
    """A run's metrics as plain text: one line each, validation beside test, then where the rest is."""
    rows: list[tuple[str, str, str]] = [("", "validation", "test")]
    for name in result.test_result or result.valid_result:
        rows.append((name, _decimal(result.valid_result, name), _decimal(result.test_result, name)))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = [f"{a:<{widths[0]}}  {b:>{widths[1]}}  {c:>{widths[2]}}" for a, b, c in rows]
    about = [f"{result.model} on {result.dataset}"]
    if result.best_epoch is not None:
        about.append(f"best epoch {result.best_epoch} of {result.epochs} by {result.valid_metric}")
    about.append(f"{result.wall_seconds:.1f} s on {result.device}")
    return "\n".join(["", *lines, "", ", ".join(about), f"folder: {result.folder}"])


def _decimal(values: Mapping[str, float], name: str) -> str:
    return f"{values[name]:.6f}" if name in values else "-"


# Texts ----------------------------------------------------------------------------------------------------------------


def _columns(rows: Sequence[tuple[str, str]]) -> list[str]:
    width = max(len(left) for left, _ in rows)
    return [f"  {left:<{width}}  {right}" for left, right in rows]


def help_text(word: str | None = None) -> str:
    """The text of ``--help``: for one word, or for all."""
    if word in COMMANDS:
        return _command_help(word)
    shown = {key: about for key, (words, about) in OPTIONS.items() if word is None or word in words}
    lines = [f"usage: recbole-diff {word or '[WORD]'} [--key=value ...]", ""]
    if word is None:
        lines += [
            "Diffusion models for next-item recommendation, and RecBole's own models under the same protocol.",
            "",
        ]
        lines += ["words:", *_columns(list(WORDS.items()))]
    else:
        lines.append(WORDS[word][0].upper() + WORDS[word][1:] + ".")
    lines += ["", "keys of the program:"]
    lines += _columns([(f"--{key}", about) for key, about in [*shown.items(), *FLAGS.items()]])
    lines += [
        "",
        "Every other --key=value is a key of the run's configuration, such as --epochs=3 or --eval_batch_size=1024.",
        "Keys, with defaults and what they mean: --help with --model=NAME shows those of that model and of every run,",
        f"from the files in {properties_directory()}; RecBole's documentation has the rest.",
        "An unknown key is refused with the nearest valid name.",
        "",
        EXAMPLES.rstrip("\n"),
    ]
    return "\n".join(lines)


def _command_help(word: str) -> str:
    command = COMMANDS[word]
    keys = [*command.OPTIONS.items(), *command.FLAGS.items()]
    return "\n".join(
        [
            f"usage: recbole-diff {word} {command.USAGE} [--key=value ...]",
            "",
            f"{WORDS[word][0].upper()}{WORDS[word][1:]}: {command.WRITES}.",
            "",
            "keys:",
            *_columns([(f"--{key}", about) for key, about in keys]),
            "",
            command.EXAMPLES.rstrip("\n"),
        ]
    )


def model_help(name: str) -> str:
    """Keys of one model and of every run, with defaults and what they mean.

    Raises:
        UserError: no such model.
    """
    names = [known for group in model_names().values() for known in group]
    path = default_file_of(name) if name in names else None
    if path is not None:
        keys = path.read_text(encoding="utf-8").rstrip() or "# none"
    elif name in names:
        keys = "# none"
    else:
        keys = _options_text(name)
    overall = (properties_directory() / "overall.yaml").read_text(encoding="utf-8").rstrip()
    for preset in PRESETS:
        datasets = datasets_with_preset(preset).get(name)
        if datasets:
            keys += f"\n\n# --preset={preset} for the datasets {', '.join(datasets)}"
    return f"# ---- keys of {name} ----\n{keys}\n\n# ---- keys of every run ----\n{overall}"


def _options_text(name: str) -> str:
    """The dataclass of options of a user's own class, one line a field."""
    from recbole_diffusion.registry import default_file, resolve_model

    entry = resolve_model(load_object(name) if ":" in name else name)
    lines: list[str] = []
    if entry.options_class is not None:
        for option in dataclasses.fields(entry.options_class):
            missing = option.default is dataclasses.MISSING
            lines.append(f"{option.name}: {'(needed)' if missing else option.default}  # ({option.type})")
    inherited = default_file(entry.model_class)
    if inherited is not None:
        lines.append(inherited.read_text(encoding="utf-8").rstrip())
    return "\n".join(lines) or "# none declared; give the class a frozen dataclass named Options"


def models_text() -> str:
    """The text of ``--list_models``: ours with paper and protocol of the paper, then RecBole's names."""
    lines = []
    for owner, names in model_names().items():
        ours = owner == "recbole_diffusion"
        lines += [f"{owner}:", *(_model_rows(names) if ours else (f"  {name}" for name in names)), ""]
    return "\n".join([*lines, "A class of your own: --model=package.module:Class"])


def _model_rows(names: Sequence[str]) -> list[str]:
    """One line a model: name, paper, the paper's protocol, what it is."""
    rows = [(row.name, row.paper, row.protocol, row.about) for row in map(OUR_MODELS.__getitem__, names)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  " + "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]


# Entry point ----------------------------------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0, 2 for a mistake of the user, 130 after Ctrl-C.

    A mistake is one line ``error: ...`` on standard error; any other exception is a bug and keeps its traceback.
    """
    try:
        return _main(sys.argv[1:] if arguments is None else arguments)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as interrupt:
        folder, word = getattr(interrupt, "run_folder", None), getattr(interrupt, "word", "")
        resume = f"; go on with: {_program()}{word} --resume={shlex.quote(str(folder))}" if folder else ""
        print(f"interrupted{resume}", file=sys.stderr)
        return 130


def _program() -> str:
    """How this program was called, to say it in a command."""
    name = Path(sys.argv[0]).name if sys.argv else ""
    if name == "__main__.py":
        return "python -m recbole_diffusion"
    return f"python {name}" if name.endswith(".py") else "recbole-diff"


def _show(text: str) -> int:
    """Print a text that may be cut off by ``| head``."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _main(arguments: Sequence[str]) -> int:
    parsed = parse(arguments)
    if "version" in parsed.flags:
        return _show(f"recbole-diffusion {__version__}")
    if "help" in parsed.flags:
        if "model" in parsed.options:
            return _show(model_help(parsed.options["model"]))
        return _show(help_text(None if arguments[0].startswith("-") else parsed.word))
    if "list_models" in parsed.flags:
        return _show(models_text())
    if not arguments:
        print(help_text(), file=sys.stderr)
        return 2
    _check_options(parsed)
    if parsed.word == PREPARE:
        return _show(prepare_command.run(parsed.options, parsed.flags, _program()))
    for name in _split_files(parsed.options.get("config_files", "")):
        if not Path(name).is_file():  # said at once, before seconds of imports
            raise UserError(f"no configuration file {name}")
    compat.check_packages()
    try:
        if parsed.word in COMMANDS:
            return _show(COMMANDS[parsed.word].run(parsed.options, parsed.flags, parsed.config))
        print(result_table(_WORD_FUNCTIONS[parsed.word](parsed)))
        return 0
    except UnknownKeyError as error:
        raise _meant(error, parsed.word) from error


def _meant(error: UnknownKeyError, word: str) -> UserError:
    """An unknown key of the command line, with the nearest of the keys that steer the word, too."""
    options, flags = _keys_of(word)
    own = [key for key in options if word in COMMANDS or word in OPTIONS[key][0]]
    hint = nearest(error.key, [*own, *flags, *([error.hint] if error.hint else [])])
    if error.origin != COMMAND_LINE or hint in (None, error.hint):
        return error
    return UnknownKeyError(error.key, error.origin, hint, "")
