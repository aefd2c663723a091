"""SASRecCE, SASRecSampled, gSASRec: their losses written out by hand, which places train, one row a user."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from recbole.data.dataset import SequentialDataset
from torch import Tensor
from torch.nn import functional

from recbole_diffusion import run
from recbole_diffusion.config import RunConfig
from recbole_diffusion.data.histories import Rows, group_by_user
from recbole_diffusion.data.loading import prepare_loaders
from recbole_diffusion.data.protocols import last_row_per_user
from recbole_diffusion.data.reading import checked_dataset
from recbole_diffusion.errors import UserError
from recbole_diffusion.losses.negatives import Negatives
from recbole_diffusion.losses.ranking import gbce_power
from recbole_diffusion.registry import resolve_model

from .tiny import Items, interaction

FAMILY = ("SASRecCE", "SASRecSampled", "gSASRec")
TINY = {
    "hidden_size": 16, "n_layers": 1, "n_heads": 2, "dropout_prob": 0.0, "MAX_ITEM_LIST_LENGTH": 8, "use_gpu": False,
    "item_init_std": 0.5, "cache": False, "position_order": "from_first",
}  # fmt: skip
HISTORIES = [[3, 1, 4], [5], [9, 2, 6, 5, 3, 8]]
TARGETS = [11, 12, 13]
NEXT = [[1, 4, 11], [12], [2, 6, 5, 3, 8, 13]]


def tiny(name: str, items: int = 21, **keys: Any) -> Any:
    options = resolve_model(name).options_class.__dataclass_fields__  # type: ignore[union-attr]
    few = {"n_negatives": 5} if "n_negatives" in options else {}
    config = RunConfig(name, "tiny", (), {**TINY, **few, **keys})
    torch.manual_seed(3)
    return config.model_class(config, Items(items))


def loss(model: Any, histories: list[list[int]] = HISTORIES, targets: list[int] = TARGETS) -> float:
    terms = model.losses(interaction(histories, targets))
    assert len(terms) == 1
    return float(next(iter(terms.values())).detach())


def states(model: Any, history: list[int]) -> Tensor:
    """The state after each item of one history, each from a row of its own (so with `position_order: from_first`)."""
    prefixes = [history[: place + 1] for place in range(len(history))]
    with torch.no_grad():
        return model.user_vectors(interaction(prefixes, [1] * len(prefixes)))[:, 0]


def all_pairs(model: Any) -> tuple[Tensor, Tensor]:
    return torch.cat([states(model, history) for history in HISTORIES]), torch.tensor(
        [item for row in NEXT for item in row]
    )


class Known:
    """A sampler that draws what it was told to."""

    def __init__(self, ids: Tensor) -> None:
        self.ids = ids

    def __call__(self, targets: Tensor, n_items: int, places: Tensor | None = None) -> Negatives:
        return Negatives(self.ids if self.ids.dim() == 1 else self.ids[: len(targets)])


# ---- losses ----


@pytest.mark.parametrize("include_padding", [True, False])
def test_cross_entropy_over_every_place(include_padding: bool) -> None:
    model = tiny("SASRecCE", ce_include_padding=include_padding)
    users, items = all_pairs(model)
    logits = users @ model.item_vectors().T
    if not include_padding:
        logits[:, 0] = -torch.inf
    assert loss(model) == pytest.approx(float(functional.cross_entropy(logits, items).detach()), abs=1e-5)


def test_cross_entropy_at_the_end_alone() -> None:
    model = tiny("SASRecCE", train_positions="last")
    users = torch.stack([states(model, history)[-1] for history in HISTORIES])
    expected = functional.cross_entropy(users @ model.item_vectors().T, torch.tensor(TARGETS))
    assert loss(model) == pytest.approx(float(expected.detach()), abs=1e-5)


def test_sampled_softmax_over_the_target_and_the_negatives() -> None:
    model = tiny("SASRecSampled")
    negatives = torch.tensor([1, 7, 11, 19, 20])
    model.objective.sampler = Known(negatives)
    users, items = all_pairs(model)
    scores = users @ model.item_vectors().T
    expected = []
    for score, item in zip(scores, items, strict=True):
        others = [int(negative) for negative in negatives if negative != item]  # remove_hits
        logits = torch.stack([score[item], *(score[other] for other in others)])
        expected.append(-torch.log_softmax(logits, 0)[0])
    assert loss(model) == pytest.approx(float(torch.stack(expected).mean().detach()), abs=1e-5)


@pytest.mark.parametrize("calibration", [0.0, 0.75, 1.0])
def test_gbce_over_the_target_and_a_places_own_negatives(calibration: float) -> None:
    model = tiny("gSASRec", calibration=calibration)
    users, items = all_pairs(model)
    negatives = torch.randint(1, 21, (len(items), 5), generator=torch.Generator().manual_seed(4))
    n_items = 20
    alpha = 5 / (n_items - 1)
    beta = alpha * (calibration * (1 - 1 / alpha) + 1 / alpha)
    assert gbce_power(5, 21, calibration) == pytest.approx(beta)
    scores = users @ model.item_vectors().T
    # places in the order in which the model hands them to the sampler do not matter: negatives follow their item
    drawn = {int(item): row for item, row in zip(items, negatives, strict=True)}

    class Follows:
        def __call__(self, targets: Tensor, n_items: int, places: Tensor | None = None) -> Negatives:
            return Negatives(torch.stack([drawn[int(target)] for target in targets]))

    model.objective.sampler = Follows()
    expected = []
    for score, item in zip(scores, items, strict=True):
        own = score[drawn[int(item)]]
        positive = -beta * torch.sigmoid(score[item]).log()
        expected.append((positive - (1 - torch.sigmoid(own)).log().sum()) / 6)
    assert loss(model) == pytest.approx(float(torch.stack(expected).mean().detach()), abs=1e-5)


def test_t_of_zero_and_one_negative_is_sasrecs_binary_cross_entropy() -> None:
    model = tiny("gSASRec", calibration=0.0, n_negatives=1, negatives_per_row=False)
    model.objective.sampler = Known(torch.tensor([17]))
    users, items = all_pairs(model)
    scores = users @ model.item_vectors().T
    both = torch.stack([scores[torch.arange(len(items)), items], scores[:, 17]], 1)
    labels = torch.tensor([[1.0, 0.0]]).expand_as(both)
    expected = functional.binary_cross_entropy_with_logits(both, labels)
    assert loss(model) == pytest.approx(float(expected.detach()), abs=1e-5)


def test_a_calibration_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match=r"calibration t is 1\.5"):
        tiny("gSASRec", calibration=1.5)


@pytest.mark.parametrize("name", FAMILY)
def test_a_deviation_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"item_init_std is -1\.0"):
        tiny(name, item_init_std=-1.0)


@pytest.mark.parametrize(
    ("name", "keys", "message"),
    [
        ("gSASRec", {"n_negatives": 0}, "n_negatives is 0; it must be 1 or more"),
        ("SASRecSampled", {"n_negatives": 0}, "n_negatives is 0; it must be 1 or more"),
        (
            "gSASRec",
            {"negative_sampler": "in_batch", "negatives_per_row": False},
            "negative_sampler is in_batch, but g",
        ),
        ("gSASRec", {"negative_sampler": "log_uniform"}, "negative_sampler is log_uniform, but gBCE is calibrated"),
        ("gSASRec", {"negative_sampler": "popular"}, "use one of uniform"),
        (
            "SASRecSampled",
            {"negative_sampler": "in_batch", "negatives_per_row": True},
            "negatives_per_row is True, but",
        ),
    ],
)
def test_negatives_that_cannot_be_are_refused(name: str, keys: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, UserError), match=message):
        tiny(name, **keys)


def test_thousands_of_negatives_come_close_to_the_full_softmax() -> None:
    model, full = tiny("SASRecSampled", n_negatives=20_000, log_q_correction=False), tiny("SASRecCE")
    full.load_state_dict(model.state_dict())
    full.options = tiny("SASRecCE", ce_include_padding=False).options
    # N negatives out of N items: log of the mean instead of the sum; the target is drawn too, as often as any
    model.objective.remove_hits = False
    users, items = all_pairs(model)
    scores = users @ model.item_vectors()[1:].T
    own = scores[torch.arange(len(items)), items - 1]
    expected = torch.logaddexp(own, torch.logsumexp(scores, 1) + np.log(20_000 / 20)) - own
    assert loss(model) == pytest.approx(float(expected.mean().detach()), rel=0.01)


def test_random_negatives_follow_the_global_generator() -> None:
    for name in ("SASRecSampled", "gSASRec"):
        model = tiny(name)
        torch.manual_seed(5)
        first = loss(model)
        torch.manual_seed(5)
        assert loss(model) == first != loss(model)


@pytest.mark.parametrize("name", ["SASRecSampled", "gSASRec"])
@pytest.mark.parametrize("per_row", [True, False])
def test_negatives_of_a_place_or_of_the_batch(name: str, per_row: bool) -> None:
    model = tiny(name, negatives_per_row=per_row)
    sampler = model.objective.sampler
    assert sampler(torch.ones(10, dtype=torch.long), 21).ids.shape == ((10, 5) if per_row else (5,))


class CountedItems(Items):
    """Also has the targets of a training set: item i is asked for i times."""

    iid_field = "item_id"

    def __init__(self, count: int) -> None:
        super().__init__(count)
        self.inter_feat = {"item_id": torch.arange(count).repeat_interleave(torch.arange(count))}


@pytest.mark.parametrize("positions", ["all", "last"])
@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("gSASRec", {"negative_sampler": "uniform"}),
        ("gSASRec", {"negative_sampler": "uniform", "negatives_per_row": False}),
        ("gSASRec", {"negative_sampler": "log_uniform", "calibration": 0.0}),
        ("gSASRec", {"negative_sampler": "log_uniform", "calibration": 0.0, "negatives_per_row": False}),
        *(
            (
                "SASRecSampled",
                {"negative_sampler": sampler, "log_q_correction": correction, "negatives_per_row": per_row},
            )
            for sampler in ("uniform", "log_uniform", "in_batch")
            for correction in (False, True)
            for per_row in (False, True)
            if not (sampler == "in_batch" and per_row)
        ),
    ],
)
def test_every_sampler_against_the_loss_written_out(name: str, keys: dict[str, Any], positions: str) -> None:
    config = RunConfig(name, "tiny", (), {**TINY, "n_negatives": 5, "train_positions": positions, **keys})
    torch.manual_seed(3)
    model = config.model_class(config, CountedItems(21))
    drawn: list[Negatives] = []
    holder = model.objective
    sampler = holder.sampler
    asked: list[Tensor] = []

    def kept(targets: Tensor, n_items: int, places: Tensor | None = None) -> Negatives:
        asked.append(targets)
        drawn.append(sampler(targets, n_items, places))
        return drawn[-1]

    del holder.sampler
    holder.sampler = kept
    found = loss(model)
    (items,), (negatives,) = asked, drawn
    assert len(items) == (10 if positions == "all" else 3)
    n_negatives = len(items) if keys["negative_sampler"] == "in_batch" else 5
    per_row = keys.get("negatives_per_row", name == "gSASRec")
    assert negatives.ids.shape == ((len(items), n_negatives) if per_row else (n_negatives,))
    users, order = all_pairs(model) if positions == "all" else (
        torch.stack([states(model, history)[-1] for history in HISTORIES]), torch.tensor(TARGETS)
    )  # fmt: skip
    scores = {int(item): user @ model.item_vectors().T for user, item in zip(users, order, strict=True)}
    total = 0.0
    for place, item in enumerate(items.tolist()):
        score = scores[item].detach()
        ids = negatives.ids[place] if per_row else negatives.ids
        others = score[ids]
        if name == "gSASRec":
            beta = gbce_power(5, 21, model.options.calibration)
            terms = -beta * torch.sigmoid(score[item]).log() - (1 - torch.sigmoid(others)).log().sum()
            total += float(terms) / 6
            continue
        own = score[item]
        if keys["log_q_correction"]:
            assert negatives.log_q is not None
            assert negatives.target_log_q is not None
            others = others - (negatives.log_q[place] if per_row else negatives.log_q)
            own = own - negatives.target_log_q[place]
        others = others[ids != item]  # remove_hits
        total += float(torch.logsumexp(torch.cat((own[None], others)), 0) - own)
    assert found == pytest.approx(total / len(items), abs=1e-4)


# ---- which rows ----


def test_the_last_row_of_each_user_whatever_their_order() -> None:
    users = np.array([1, 1, 1, 2, 2, 4, 4, 4, 4])
    histories = group_by_user(users, {"item_id": np.arange(1, 10)}, 5)
    rows = Rows(np.array([6, 2, 1, 7]))  # user 2 has no row
    for order in ([0, 1, 2, 3], [3, 2, 1, 0], [2, 1, 0, 3]):
        mixed = rows.take(np.array(order))
        assert mixed.target[last_row_per_user(mixed, histories)].tolist() == [2, 7]
    assert last_row_per_user(Rows(np.array([], dtype=np.int64)), histories).tolist() == []


def loaders_of(small_data: Path, **keys: Any) -> Any:
    config = RunConfig("SASRecCE", "small", (), {**TINY, "data_path": str(small_data), "train_batch_size": 16, **keys})
    return config, prepare_loaders(config, checked_dataset(SequentialDataset)(config))


def test_all_places_of_a_user_are_trained_once(small_data: Path) -> None:
    """Over an epoch the pairs (history, next item) of one row a user are those of all rows."""
    config, (train, _, _) = loaders_of(small_data, MAX_ITEM_LIST_LENGTH=20)
    assert config["train_positions"] == "all"
    assert len(train) == 60 // 16 + 1
    found = []
    for batch in train:
        for row in range(len(batch)):
            items = [*batch["item_id_list"][row, : batch["item_length"][row]].tolist(), int(batch["item_id"][row])]
            found += [(int(batch["user_id"][row]), tuple(items[:cut]), items[cut]) for cut in range(1, len(items))]
    _, (every, _, _) = loaders_of(small_data, MAX_ITEM_LIST_LENGTH=20, train_positions="last")
    expected = []
    for batch in every:
        for row in range(len(batch)):
            history = tuple(batch["item_id_list"][row, : batch["item_length"][row]].tolist())
            expected.append((int(batch["user_id"][row]), history, int(batch["item_id"][row])))
    assert sorted(found) == sorted(expected)
    assert len(every) > 4 * len(train)


def test_each_epoch_has_every_user_in_another_order(small_data: Path) -> None:
    _, (train, _, _) = loaders_of(small_data)
    epochs = [[int(user) for batch in train for user in batch["user_id"]] for _ in range(2)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(1, 61))
    assert epochs[0] != epochs[1]


def test_a_long_history_trains_its_last_targets(small_data: Path) -> None:
    _, (train, _, _) = loaders_of(small_data, MAX_ITEM_LIST_LENGTH=3)
    for batch in train:
        assert batch["item_id_list"].shape[1] <= 3


def test_one_cut_per_user_is_refused_with_all_places(small_data: Path) -> None:
    keys = {"protocol": "user_split_multi", "one_cut_per_user": True}
    with pytest.raises(UserError, match="train_positions: all trains every one"):
        loaders_of(small_data, **keys)
    loaders_of(small_data, **keys, train_positions="last")


@pytest.mark.parametrize("name", FAMILY)
@pytest.mark.parametrize("positions", ["all", "last"])
def test_each_runs(name: str, positions: str, small_data: Path, tmp_path: Path) -> None:
    keys = {
        **TINY,
        "epochs": 4,
        "eval_step": 4,
        "train_positions": positions,
        "learning_rate": 0.01,
        "dropout_prob": 0.1,
    }
    result = run(name, "small", keys, data_path=small_data, output=tmp_path, show_progress=False)
    assert result.test_result["hit@20"] > 0.3
