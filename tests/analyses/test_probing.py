"""Linear probing on vectors whose categories are known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recbole_diffusion.analyses.probing import (
    Task,
    best_penalty,
    item_embeddings,
    majority,
    probe,
    score,
    split,
    task_of,
)
from recbole_diffusion.data.item_categories import CategoriesOfItems
from recbole_diffusion.errors import UserError
from recbole_diffusion.training.checkpoint import Checkpoint, write_checkpoint

# items 1..4: a b, b, a, c a
FOUND = CategoriesOfItems("genre", np.array([1, 1, 2, 3, 4, 4]), np.array([0, 1, 1, 0, 2, 0]), ["a", "b", "c"])


def two_clouds(number: int = 40) -> tuple[np.ndarray, Task]:
    """Vectors of two categories that the first of three dimensions tells apart."""
    generator = np.random.default_rng(0)
    table = generator.standard_normal((number + 1, 3))
    second = np.arange(number) % 4 == 0
    table[1:, 0] += np.where(second, 8, -8)
    return table, Task(np.arange(1, number + 1), np.stack([~second, second], 1), ["a", "b"], True, "genre")


def accuracy(table: np.ndarray | None, task: Task) -> float:
    values = []
    for train, test in split(task, 4, 0):
        said = majority(task, train, test) if table is None else probe(table, task, train, test, 1.0, "x")
        values.append(score(task, test, *said)["accuracy"])
    return float(np.mean(values))


def test_the_first_category_and_all_of_them() -> None:
    first = task_of(FOUND, "first", 1)
    assert first.single and first.names == ["a", "b", "c"]
    assert first.labels.astype(int).tolist() == [[1, 0, 0], [0, 1, 0], [1, 0, 0], [0, 0, 1]]
    every = task_of(FOUND, "all", 1)
    assert not every.single
    assert every.labels.astype(int).tolist() == [[1, 1, 0], [0, 1, 0], [1, 0, 0], [1, 0, 1]]


def test_rare_categories_are_left_out() -> None:
    every = task_of(FOUND, "all", 2)
    assert every.names == ["a", "b"] and every.items.tolist() == [1, 2, 3, 4]
    with pytest.raises(UserError, match=r"column genre has 1 categories with 2 items or more.*--category_field"):
        task_of(FOUND, "first", 2)


def test_separable_vectors_are_told_apart_at_any_size() -> None:
    table, task = two_clouds()
    assert accuracy(table, task) == 1.0
    assert accuracy(1e-4 * table + 5, task) == 1.0
    assert accuracy(None, task) == 0.75  # 30 of 40, and as many in every fold
    shuffled = np.random.default_rng(1).permutation(table)
    assert accuracy(shuffled, task) < 0.9


def test_any_number_of_categories() -> None:
    table, task = two_clouds()
    labels = np.concatenate((task.labels, np.ones((40, 1), dtype=bool)), axis=1)
    labels[:2, 2] = False
    several = Task(task.items, labels, ["a", "b", "c"], False, "genre")
    train, test = split(several, 4, 0)[0]
    found = score(several, test, *probe(table, several, train, test, 1.0, "x"))
    assert found["micro_f1"] > 0.9
    assert found["accuracy"] == 1.0  # the likeliest one is one of theirs
    base = score(several, test, *majority(several, train, test))
    assert base["micro_f1"] < found["micro_f1"]


def test_scores_by_hand() -> None:
    """Three items of a, a, b; said a, b, b: two right; F1 of a is 2/3, of b 2/3."""
    task = Task(np.arange(1, 4), np.array([[1, 0], [1, 0], [0, 1]], dtype=bool), ["a", "b"], True, "genre")
    said = np.array([[1, 0], [0, 1], [0, 1]], dtype=bool)
    found = score(task, np.arange(3), said.astype(float), said)
    assert np.allclose(list(found.values()), [2 / 3, 2 / 3, 2 / 3])


def test_the_penalty_that_unseen_items_are_likeliest_under() -> None:
    """What can be learned wants a weak penalty, what cannot a strong one; the test items are not looked at."""
    table, task = two_clouds()
    train, _ = split(task, 4, 0)[0]
    assert best_penalty(table, task, train, [1e-4, 1.0], 0, "x") == 1.0
    noise = np.random.default_rng(2).standard_normal((41, 30))
    assert best_penalty(noise, task, train, [1e-4, 1.0], 0, "x") == 1e-4
    several = Task(task.items, np.concatenate((task.labels, task.labels), axis=1), ["a", "b", "c", "d"], False, "genre")
    assert best_penalty(table, several, train, [1e-4, 1.0], 0, "x") == 1.0
    assert best_penalty(noise, several, train, [1e-4, 1.0], 0, "x") == 1e-4
    assert best_penalty(table, task, train, [7.0], 0, "x") == 7.0


def test_folds_repeat_and_hold_every_item_once() -> None:
    _, task = two_clouds()
    one, other = split(task, 4, 3), split(task, 4, 3)
    assert all(np.array_equal(a[1], b[1]) for a, b in zip(one, other, strict=True))
    assert np.array_equal(np.sort(np.concatenate([test for _, test in one])), np.arange(40))
    assert not np.array_equal(one[0][1], split(task, 4, 4)[0][1])


def test_the_weights_of_a_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").touch()
    file = tmp_path / "best" / "model.safetensors"
    facts: dict[str, Any] = {"files": {}, "ids": "i", "users": 1, "items": 2}
    tensors = {"model.item_embedding.weight": torch.arange(8.0).reshape(4, 2), "model.other.weight": torch.ones(3, 5)}
    write_checkpoint(file, Checkpoint(tensors, {"data": facts}))
    assert item_embeddings(tmp_path, "item_embedding.weight", 3, facts).tolist() == [[0, 1], [2, 3], [4, 5]]
    with pytest.raises(UserError, match=r"--embedding may be item_embedding\.weight or other\.weight"):
        item_embeddings(tmp_path, "item.weight", 3, facts)
    with pytest.raises(UserError, match="was trained on other data"):
        item_embeddings(tmp_path, "item_embedding.weight", 3, {**facts, "ids": "j"})
