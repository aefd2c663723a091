"""Which way imports go: the table of docs/architecture.md."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "recbole_diffusion"
PARTS = {"diffusion", "denoisers", "interests", "losses"}
SETTINGS = {
    "config",
    "config_data_keys",
    "config_files",
    "config_keys",
    "config_options",
    "config_presets",
    "config_protocols",
    "config_training_keys",
    "config_values",
    "registry",
    "compat",
    "errors",
}
MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "ray_session": {"errors"},
    "dates": set(),
    "provenance": {"errors"},
    "linear": set(),
    "memory_reuse": set(),
    "counter_streams": set(),
    "keyed_draws": {"counter_streams"},
    "batch_share": set(),
    "diffusion": {"counter_streams", "keyed_draws", "batch_share"},
    "losses": {"linear", "keyed_draws", "batch_share"},
    "interests": {"diffusion", "linear"},
    "denoisers": {"diffusion", "interests", "linear"},
    "config_files": {"errors"},
    "compat": {"errors"},
    "model_table": set(),
    "registry": {"compat", "config_files", "errors", "model_table"},
    "config_values": {"dates", "registry"},
    "config_data_keys": {"config_values"},
    "config_training_keys": {"config_values"},
    "config_options": {"config_files", "config_values", "registry", "errors"},
    "config_keys": set(),
    "config_presets": {"config_files", "registry", "errors"},
    "config_protocols": {"dates", "errors"},
    "config": SETTINGS - {"config"},
    "models": SETTINGS | PARTS | {"linear"},
    "data": {"registry", "compat", "errors", "dates"},
    "evaluation": {"registry", "compat", "errors"},
    "training": {"models", "evaluation", "provenance", "compat", "errors"}
    | {"counter_streams", "keyed_draws", "batch_share"},
    "loggers": {"training", "errors"},
    "session": SETTINGS | {"data", "models", "evaluation", "training", "provenance", "loggers", "memory_reuse"},
    "retrieval": {"models", "evaluation", "training", "provenance", "errors"},
    "recommendation": SETTINGS | {"data", "models", "evaluation", "training", "provenance", "ray_session", "retrieval"},
    "export": {"config", "registry", "model_table", "errors"}
    | {"data", "models", "evaluation", "training", "provenance", "recommendation", "ray_session"},
    "quick_start": SETTINGS | {"session", "training", "loggers"},
    "workers": {"config", "compat", "errors", "session", "training", "ray_session"},
    "command_options": {"config_files", "errors"},
    "prepare_command": {"data", "registry", "command_options", "errors"},
    "benchmarking": {"config_files", "config_protocols", "errors"},
    "tuning": SETTINGS | {"data", "session", "training", "provenance", "ray_session", "loggers", "command_options"},
    "tune_command": {"config_files", "errors"},
    "reporting": {"benchmarking", "pictures", "errors"},
    "suites": SETTINGS
    | {"benchmarking", "reporting", "training", "provenance", "ray_session", "tuning", "loggers", "command_options"},
    "benchmark_command": {"config_files", "errors"},
    "pictures": {"errors"},
    "analyses": SETTINGS
    | {"data", "models", "evaluation", "training", "session", "quick_start", "benchmarking", "suites", "pictures"}
    | {"provenance"}
    | PARTS,
    "analyse_command": {"analyses", "config_files", "registry", "errors"},
    "recommend_command": {"recommendation", "command_options", "errors"},
    "service": {"recommendation", "registry", "errors"},
    "serve_command": {"command_options", "errors"},
    "index_command": {"recommendation", "command_options", "retrieval", "errors"},
    "export_command": {"export", "command_options", "errors"},
    "command_line": SETTINGS
    | {"model_table", "quick_start", "prepare_command"}
    | {"tune_command", "benchmark_command", "analyse_command"}
    | {"recommend_command", "index_command", "export_command", "serve_command"},
    "__main__": {"command_line"},
}
# Inside a function: the table of models is what resolves a name, the package's own names are imported on first use.
MAY_IMPORT_LATE: dict[str, set[str]] = {
    "quick_start": {"workers"},
    "registry": {"models", "evaluation"},
    "config_values": {"evaluation"},
    "tune_command": {"tuning"},
    "benchmark_command": {"suites"},
    "analyse_command": {"pictures", "command_options"},
    "serve_command": {"service", "recommendation"},
    "suites": {"command_line"},
    "__init__": {"quick_start", "data", "recommendation", "tuning", *SETTINGS},
}
FILES = sorted((ROOT / PACKAGE).rglob("*.py"))


def unit_of(path: Path) -> str:
    """The folder or module directly below the package that a file belongs to."""
    return path.relative_to(ROOT / PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> Iterator[tuple[str, bool]]:
    """Dotted names that a file imports, and whether inside a function or for type checkers alone."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    late: set[ast.AST] = set()
    for node in ast.walk(tree):
        typing_only = isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
        if typing_only or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            late.update(ast.walk(node))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node in late
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports are absolute"
            for alias in node.names:
                yield f"{node.module}.{alias.name}", node in late


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_follow_the_table(path: Path) -> None:
    unit = unit_of(path)
    early = MAY_IMPORT.get(unit, set()) | {unit}
    known = {unit_of(file) for file in FILES}
    assert unit in MAY_IMPORT or unit == "__init__", f"{unit} is new: enter it here and in docs/architecture.md"
    for name, late in imports(path):
        root, _, rest = name.partition(".")
        target = rest.partition(".")[0]
        if root != PACKAGE or target not in known:
            continue
        allowed = early | MAY_IMPORT_LATE.get(unit, set()) if late else early
        assert target in allowed, f"{path.relative_to(ROOT)} imports {name}; {unit} may import {sorted(allowed)}"


@pytest.mark.parametrize("unit", sorted(PARTS))
def test_the_parts_never_import_recbole(unit: str) -> None:
    for path in (ROOT / PACKAGE / unit).rglob("*.py"):
        roots = {name.partition(".")[0] for name, _ in imports(path)}
        assert "recbole" not in roots, path


def test_importing_the_package_imports_neither_recbole_nor_torch() -> None:
    code = f"import sys, {PACKAGE}, {PACKAGE}.command_line; print(sorted({{'torch', 'recbole'}} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout.strip() == "[]"
