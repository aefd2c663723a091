"""The contracts of `cases.py` on every model of this package, and on RecBole's those that apply.

`make test` runs them on the CPU, `make test-gpu` those of a GPU where there is one.
"""

from __future__ import annotations

import ast
import importlib
import inspect
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import torch
from recbole.data.interaction import Interaction

from recbole_diffusion.config_files import read_yaml
from recbole_diffusion.model_table import OUR_MODELS
from recbole_diffusion.models.base import VectorRecommender, relevance
from recbole_diffusion.registry import model_names, properties_directory, resolve_model
from recbole_diffusion.training.checkpoint import (
    Checkpoint,
    load_model,
    model_tensors,
    read_checkpoint,
    write_checkpoint,
)

from .building import ITEMS, USERS, Built, build, loss_of, plain, scores_of, write_data
from .cases import CONTRACTS, NOT_AT_ALL, OURS_ALONE, RECBOLE, Case, our_cases

CASES = [*our_cases(), *RECBOLE]
TOLERANCE = 1e-4  # of scores of several units, in float32


def keeps(contract: str) -> Any:
    """The cases that keep a contract, as a parametrisation."""
    chosen = [
        case
        for case in CASES
        if contract not in case.left_out and (case.model in OUR_MODELS or contract not in OURS_ALONE)
    ]
    return pytest.mark.parametrize("case", chosen, ids=lambda case: case.name)


@pytest.fixture(scope="module")
def data_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("contracts")
    write_data(folder)
    return folder


@pytest.fixture(scope="module")
def _built(data_path: Path) -> dict[str, Built]:
    return {}


@pytest.fixture
def built(case: Case, data_path: Path, _built: dict[str, Built]) -> Iterator[Built]:
    """The case's model, fresh weights each time; the data are read once."""
    if case.name not in _built:
        _built[case.name] = build(case, data_path)
    found = _built[case.name]
    found.model = found.again(7)
    yield found


def check_gradients(model: Any, loss: torch.Tensor, may_be_zero: dict[str, str] | None) -> None:
    """Finite everywhere; with `may_be_zero` also not zero, but for the parameters named there."""
    assert loss.numel() == 1
    assert bool(torch.isfinite(loss))
    loss.sum().backward()
    for name, weight in model.named_parameters():
        assert weight.grad is None or bool(torch.isfinite(weight.grad).all()), f"{name}: gradient is not finite"
        if may_be_zero is not None and not any(fnmatch(name, pattern) for pattern in may_be_zero):
            assert weight.grad is not None, f"{name}: no gradient"
            assert bool((weight.grad != 0).any()), f"{name}: gradient is zero"


@keeps("gradients")
def test_gradients(case: Case, built: Built) -> None:
    model = built.model.train()
    torch.manual_seed(1)
    check_gradients(model, loss_of(model, built.batch()), dict(case.without_gradient))


@keeps("overfits")
def test_overfits(case: Case, built: Built) -> None:
    batch = built.last_rows()
    assert len(batch) == USERS
    torch.manual_seed(2)
    model = built.model
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    found = 0
    for step in range(1, 601):
        model.train()
        optimizer.zero_grad()
        loss_of(model, batch).backward()
        optimizer.step()
        if step % 25 == 0:
            found = came_first(model, batch)
            if found >= USERS - 3:
                return
    pytest.fail(f"{found} of {USERS} targets come first after {step} steps")


@torch.no_grad()
def came_first(model: Any, batch: Interaction) -> int:
    """How many targets come first among all items by one of their row's vectors: training picks one of K, and another
    may rank other items above."""
    model.eval()
    scores = relevance(model.user_vectors(batch), model.item_vectors(), model.options.score)
    scores[..., 0] = -torch.inf
    return int((scores.argmax(2) == batch["item_id"][:, None]).any(1).sum())


@keeps("predict")
def test_predict(case: Case, built: Built) -> None:
    batch = built.evaluation()
    model = built.model.eval()
    with torch.no_grad():
        one = model.predict(batch).cpu()
    every = scores_of(model, batch)
    assert torch.allclose(one, every[torch.arange(len(one)), batch["item_id"].cpu()], atol=TOLERANCE)


@keeps("padding")
def test_padding(case: Case, built: Built) -> None:
    wide = built.evaluation()
    width = int(wide["item_length"].max())
    assert width < wide["item_id_list"].shape[1]
    narrow = plain(wide, built.config["device"])
    for name, value in narrow.interaction.items():
        if value.dim() == 2:
            narrow.interaction[name] = value[:, :width]
    assert torch.allclose(scores_of(built.model, wide), scores_of(built.model, narrow), atol=TOLERANCE)


@keeps("stored")
def test_stored(case: Case, built: Built, tmp_path: Path) -> None:
    batch, path = built.evaluation(), tmp_path / "model.safetensors"
    before = scores_of(built.model, batch)
    write_checkpoint(path, Checkpoint(model_tensors(built.model), {}))
    other = built.again(11)
    assert not torch.equal(scores_of(other, batch), before)
    load_model(other, read_checkpoint(path), path)
    assert torch.equal(scores_of(other, batch), before)


@keeps("batch size")
def test_batch_size(case: Case, built: Built) -> None:
    batch = built.evaluation()
    whole = scores_of(built.model, batch)
    assert whole.shape == (USERS, ITEMS + 1)
    assert torch.equal(scores_of(built.model, batch), whole)
    for size in (7, 1):
        parts = [
            scores_of(built.model, batch[list(range(begin, min(begin + size, len(batch))))])
            for begin in range(0, len(batch), size)
        ]
        assert torch.allclose(torch.cat(parts), whole, atol=TOLERANCE)


@keeps("bf16")
def test_bf16(case: Case, built: Built) -> None:
    model = built.model.train()
    torch.manual_seed(1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = loss_of(model, built.batch())
    check_gradients(model, loss.float(), None)


@keeps("one row")
def test_one_row(case: Case, built: Built) -> None:
    row = built.shortest_row()
    assert row["item_length"].tolist() == [1]
    model = built.model.train()
    if case.model in OUR_MODELS:
        torch.manual_seed(1)
        check_gradients(model, loss_of(model, row), None)
    assert bool(torch.isfinite(scores_of(model, row)[:, 1:]).all())


@keeps("small catalogue")
def test_small_catalogue(case: Case, data_path: Path) -> None:
    small = build(case, data_path, "narrow", topk=[1], valid_metric="NDCG@1")
    model = small.model.train()
    torch.manual_seed(1)
    check_gradients(model, loss_of(model, small.batch()), None)
    scores = scores_of(model, small.evaluation())
    assert scores.shape[1] == 5
    assert bool(torch.isfinite(scores[:, 1:]).all())


# ---- keys ----


def attributes_read(source: str) -> tuple[set[str], set[str]]:
    """All attribute names that source reads, and those it reads of its options (`o.key`, `self.options.key`)."""
    every, own = set(), set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute):
            every.add(node.attr)
            holder = node.value
            if (isinstance(holder, ast.Name) and holder.id in ("o", "options")) or (
                isinstance(holder, ast.Attribute) and holder.attr == "options"
            ):
                own.add(node.attr)
    return every, own


def sources_of(model_class: type) -> Iterator[str]:
    """The model's module and what it takes, itself or through them, from other modules of `models/`."""
    names = [model_class.__module__]
    for name in names:
        source = inspect.getsource(importlib.import_module(name))
        yield source
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith("recbole_diffusion.models."):
                names += {str(node.module)}.difference(names)


@pytest.mark.parametrize("name", OUR_MODELS)
def test_keys(name: str) -> None:
    model_class = resolve_model(name).model_class
    options = set(model_class.Options.__dataclass_fields__)
    every: set[str] = set()
    for source in sources_of(model_class):
        every |= attributes_read(source)[0]
    assert options - every == set(), "keys that nothing reads"
    own = attributes_read(inspect.getsource(importlib.import_module(model_class.__module__)))[1]
    assert own - set(dir(model_class.Options)) - options == set(), "keys that are read and no option"
    assert options <= set(read_yaml(properties_directory() / "model" / f"{name}.yaml").values)


# ---- the table itself ----


def test_every_model_and_every_exception_is_in_the_table() -> None:
    assert {case.model for case in our_cases()} == set(OUR_MODELS)
    for case in CASES:
        assert set(case.left_out) <= set(CONTRACTS)
        assert all(reason.strip() for reason in [*case.left_out.values(), *case.without_gradient.values()])
    sequential = {name for name in model_names()["RecBole"] if resolve_if_possible(name) is not None}
    assert sequential == {case.model for case in RECBOLE} | set(NOT_AT_ALL)


def test_the_page_has_the_table() -> None:
    page = Path(__file__).resolve().parents[2] / "docs" / "contracts.md"
    text = page.read_text(encoding="utf-8")
    lines = [f"| {name} | {about} |" for name, about in [*CONTRACTS.items(), *NOT_AT_ALL.items()]]
    for case in CASES:
        lines += [f"| {case.name} | {contract} | {reason} |" for contract, reason in case.left_out.items()]
        lines += [f"| {case.name} | gradient of `{name}` | {why} |" for name, why in case.without_gradient.items()]
    for line in lines:
        assert line in text.splitlines(), line
    assert sum(line.startswith("| ") for line in text.splitlines()) == len(lines) + 3  # three headers


def resolve_if_possible(name: str) -> Any:
    """RecBole's sequential model of that name; None for any other."""
    from recbole_diffusion.registry import _recbole_modules

    return resolve_model(name) if "sequential_recommender" in _recbole_modules()[name] else None


@pytest.mark.parametrize("name", OUR_MODELS)
def test_every_model_shares_the_base_and_none_another(name: str) -> None:
    bases = resolve_model(name).model_class.__mro__[1:]
    assert VectorRecommender in bases
    assert not {base.__name__ for base in bases} & set(OUR_MODELS)


# ---- GPU ----


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("case", our_cases(), ids=lambda case: case.name)
def test_on_a_gpu(case: Case, data_path: Path) -> None:
    here = build(case, data_path)
    there = build(case, data_path, use_gpu=True)
    there.model.load_state_dict(here.model.state_dict())
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):  # a GRU's products are TF32's otherwise
        scores = scores_of(there.model, there.evaluation())
    torch.testing.assert_close(scores, scores_of(here.model, here.evaluation()), atol=1e-3, rtol=1e-5)
    for precision in (torch.float32, torch.bfloat16):
        model = there.model.train()
        model.zero_grad()
        with torch.autocast("cuda", dtype=torch.bfloat16, enabled=precision is torch.bfloat16):
            loss = loss_of(model, there.batch())
        check_gradients(model, loss.float(), None)
