"""The tables of docs/models that lead from equations to code lead to code that is there."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted((ROOT / "docs" / "models").glob("*.md"))
REFERENCE = re.compile(r"`([a-z_]+(?:/[a-z_0-9]+)*\.py)`(?:: `([A-Za-z_][\w.]*)`)?")


def definitions(path: Path) -> set[str]:
    """Names that a file defines: functions, classes, constants, and methods as Class.method."""
    names: set[str] = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names.add(node.name)
        if isinstance(node, ast.Assign):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
        if isinstance(node, ast.ClassDef):
            methods = {inner.name for inner in node.body if isinstance(inner, ast.FunctionDef)}
            names |= methods | {f"{node.name}.{name}" for name in methods}
    return names


def references(page: Path) -> Iterator[tuple[str, str]]:
    """A file below recbole_diffusion/ and the name in it that a page points to, "" for the file alone."""
    for line in page.read_text(encoding="utf-8").splitlines():
        if line.startswith("|"):
            yield from REFERENCE.findall(line)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_equations_lead_to_code(page: Path) -> None:
    found = [(file, name) for file, name in references(page) if not file.startswith(("benchmarks/", "tests/"))]
    assert found, "the page names no code"
    for file, name in found:
        path = ROOT / "recbole_diffusion" / file
        if "/" not in file:  # the rest of a row whose first reference has the folder
            path = next((ROOT / "recbole_diffusion").rglob(file))
        assert path.is_file(), f"{page.name}: {file} does not exist"
        assert not name or name in definitions(path), f"{page.name}: {file} does not define {name}"


def test_every_page_is_of_a_model_and_every_model_has_one() -> None:
    from recbole_diffusion.model_table import OUR_MODELS

    assert {page.stem for page in PAGES} == set(OUR_MODELS)
