"""A worker's share of a batch, of an evaluation, and models whose loss cannot be shared."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
import torch
from recbole.utils import init_seed

from recbole_diffusion.batch_share import BatchShare, sharing, whole_batch
from recbole_diffusion.config import RunConfig
from recbole_diffusion.data.loading import prepare_loaders
from recbole_diffusion.data.reading import checked_dataset
from recbole_diffusion.errors import UserError
from recbole_diffusion.training.batch_terms import check_mean_over_rows
from recbole_diffusion.training.evaluation_share import block, own_batches
from recbole_diffusion.training.losses import terms_of
from recbole_diffusion.training.worker_group import WorkerGroup
from recbole_diffusion.workers.exchange import Echo, Ended, Exchange, Terminal
from recbole_diffusion.workers.ray_training import threads_that_fit


def group(rank: int, size: int) -> WorkerGroup:
    made = WorkerGroup()
    made.rank, made.size = rank, size
    return made


@pytest.mark.parametrize("rows", [1, 2, 3, 7, 8])
@pytest.mark.parametrize("workers", [1, 2, 3, 5])
def test_every_row_is_in_one_share_and_the_weights_add_up(rows: int, workers: int) -> None:
    shares = [BatchShare(rows, rank, workers, lambda part: [part]) for rank in range(workers)]
    places = torch.cat([share.places for share in shares if not share.empty])
    assert sorted(places.tolist()) == list(range(rows))
    assert sum(share.weight for share in shares) == pytest.approx(1.0)
    assert all(len(share.places) > 0 for share in shares), "a worker without rows computes one, with weight 0"
    ranges = [block(rows, group(rank, workers)) for rank in range(workers)]
    assert [row for one in ranges for row in one] == list(range(rows))
    assert max(map(len, ranges)) - min(map(len, ranges)) <= 1


@pytest.mark.parametrize("rows", [1, 5, 6])
def test_parts_join_in_the_batchs_order(rows: int) -> None:
    values = torch.arange(rows) * 10
    empty_or_own = [values[rank::2] for rank in range(2)]
    share = BatchShare(rows, 1, 2, lambda part: empty_or_own)
    with sharing(share):
        assert torch.equal(whole_batch(values[share.places]), values)
    assert whole_batch(values) is values


def test_a_worker_evaluates_its_rows_with_their_numbers(small_data: Path) -> None:
    config = RunConfig("DiffuRec", "small", (), {"data_path": str(small_data), "eval_batch_size": 7, "use_gpu": False})
    _, _, test = prepare_loaders(config, checked_dataset(config.entry.dataset_class)(config))
    everything = torch.cat([batch[0]["user_id"] for batch in test])
    found = []
    for rank in range(3):
        batches, first_row, own = own_batches(test, group(rank, 3))
        assert first_row == sum(map(len, found)) and own == range(len(batches))
        found.append(torch.cat([batch[0]["user_id"] for batch in batches]))
    assert torch.equal(torch.cat(found), everything)
    batches, first_row, own = own_batches(test, group(0, 1))
    assert batches is test and first_row == 0 and list(own) == list(range(len(test)))


def built(name: str, small_data: Path) -> tuple[object, object]:
    config = RunConfig(
        f"tests.workers.own_models:{name}",
        "small",
        (),
        {
            "data_path": str(small_data),
            "use_gpu": False,
            "hidden_size": 16,
            "n_heads": 2,
            "n_layers": 1,
            "num_steps": 4,
        },
    )
    train, _, _ = prepare_loaders(config, checked_dataset(config.entry.dataset_class)(config))
    return config.model_class(config, train._dataset), train.collate_fn(np.arange(21))


@pytest.mark.parametrize("name", ["Declared", "Broken"])
def test_a_loss_that_adds_up_is_taken(name: str, small_data: Path) -> None:
    model, batch = built(name, small_data)
    before = torch.get_rng_state()
    check_mean_over_rows(model, model.losses, batch, 1, "cpu")  # type: ignore[attr-defined,arg-type]
    assert torch.equal(torch.get_rng_state(), before) and model.training  # type: ignore[attr-defined]


@pytest.mark.parametrize(("name", "sums"), [("BERT4Rec", False), ("SASRec", True), ("NARM", True), ("GRU4Rec", True)])
def test_losses_of_recbole(name: str, sums: bool, small_data: Path) -> None:
    keys = {"data_path": str(small_data), "use_gpu": False, "loss_type": "CE", "hidden_size": 16}
    config = RunConfig(name, "small", (), {key: value for key, value in keys.items() if key != "loss_type" or sums})
    train, _, _ = prepare_loaders(config, checked_dataset(config.entry.dataset_class)(config))
    init_seed(1, True)
    model, batch = config.model_class(config, train._dataset), train.collate_fn(np.arange(21))
    with contextlib.nullcontext() if sums else pytest.raises(UserError, match="not a mean over rows"):
        check_mean_over_rows(model, terms_of(model, None), batch, 1, "cpu")


def test_a_loss_that_does_not_add_up_is_refused_in_one_line(small_data: Path) -> None:
    model, batch = built("Summed", small_data)
    with pytest.raises(UserError, match=r"not a mean over rows .*set num_workers: 1 or write averaged_over") as refused:
        check_mean_over_rows(model, model.losses, batch, 1, "cpu")  # type: ignore[attr-defined,arg-type]
    assert "\n" not in str(refused.value)


# what a worker and its starter leave for each other


@contextlib.contextmanager
def standard_error() -> Iterator[StringIO]:
    with contextlib.redirect_stderr(StringIO()) as stream:
        yield stream


def test_what_a_worker_writes_is_shown_while_it_writes(tmp_path: Path) -> None:
    exchange = Exchange.create(tmp_path)
    with standard_error() as shown, Echo(exchange.terminal), Terminal(exchange.terminal, is_terminal=True) as terminal:
        assert terminal.isatty()
        print("epoch 1 …", file=terminal)
        deadline = time.monotonic() + 20
        while "epoch 1 …\n" not in shown.getvalue() and time.monotonic() < deadline:
            time.sleep(0.01)
        assert shown.getvalue() == "epoch 1 …\n"
        terminal.write("50%\r")
    assert shown.getvalue() == "epoch 1 …\n50%\r"
    exchange.remove()
    assert list(tmp_path.iterdir()) == [] and sys.stderr is not shown


def test_another_starter_ends_the_workers_of_the_last_one(tmp_path: Path) -> None:
    first = Exchange.create(tmp_path)
    assert not first.start() and first.start() and not first.stopped
    second = Exchange.create(tmp_path)
    assert first.stopped and not second.stopped
    second.stop()
    assert second.stopped


def test_a_persons_mistake_comes_before_what_it_led_to(tmp_path: Path) -> None:
    exchange = Exchange.create(tmp_path)
    assert exchange.ended() is None
    exchange.end(0, Ended("raised", "Traceback"))
    exchange.end(1, Ended("refused", "topk asks for too many"))
    assert exchange.ended() == Ended("refused", "topk asks for too many")


# how many cores a worker gets


def test_workers_share_the_cores_of_the_machines() -> None:
    assert threads_that_fit([{"CPU": 2}], 2, None) == 1
    assert threads_that_fit([{"CPU": 16}, {"CPU": 16}, {"CPU": 16}], 3, None) == 16
    assert threads_that_fit([{"CPU": 16}, {"CPU": 4}], 2, None) == 8, "both on the larger machine"
    assert threads_that_fit([{"CPU": 8, "GPU": 1}, {"CPU": 4, "GPU": 1}], 2, None, use_gpu=True) == 4
    assert threads_that_fit([{"CPU": 8}], 2, 3) == 3


@pytest.mark.parametrize(("wanted", "key"), [(None, "give Ray more"), (2, "num_threads")])
def test_too_few_cores_are_refused(wanted: int | None, key: str) -> None:
    with pytest.raises(UserError, match=f"num_workers is 3.* 2 CPU cores .*{key}"):
        threads_that_fit([{"CPU": 2}], 3, wanted)
