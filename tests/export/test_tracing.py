"""What a traced program computes instead of what sizes by value allow is the same: layouts, noise, whole models.

`torch.compiler.is_compiling` switches the models to that arithmetic; here it is switched on without a tracer, so that
every model is compared in milliseconds. The tracer itself is run for a few models, and for all of them as a slow test.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from recbole.data.interaction import Interaction
from torch import Tensor

from recbole_diffusion.counter_streams import normal_rows
from recbole_diffusion.denoisers.transformer import HistoryMixing, TransformerDenoiser
from recbole_diffusion.diffusion.noise import RowNoise
from recbole_diffusion.errors import UserError
from recbole_diffusion.export.programs import trace
from recbole_diffusion.export.user_encoder import UserEncoder, check_exportable, watched_inference, wrapped_sum
from recbole_diffusion.interests.condition import Condition
from recbole_diffusion.interests.packing import PackedHistory, pack, rows_apart
from recbole_diffusion.interests.pruning import kept_items, ranks_by_comparison
from recbole_diffusion.models.base import EVALUATION_ROW, VectorRecommender, history_keys
from tests.contracts.building import Built, build, write_data
from tests.contracts.cases import Case, our_cases

FEW_STEPS = {"num_steps": 2}
CHAINS = ("DiffuRec", "DiffuRecSys", "DMI", "DimeRec", "DreamRec")
MORE = [
    Case("DiffuRec", {"n_eval_samples": 2, "score": "cosine", "item_init_std": 0.1}, label="two chains, cosine"),
    Case("DimeRec", {"rank_by": "guidance"}, label="guidance alone"),
    Case("DimeRec", {"noise_space": "euclidean", "guidance": "dr"}, label="euclidean, dr"),
    Case("DMI", {"base": "comirec_dr", "denoiser": "mlp"}, label="comirec_dr, mlp"),
    Case("DMI", {"diffusion": False}, label="no diffusion"),
    Case("DreamRec", {"guidance_scale": 0.0}, label="no guidance"),
    Case("MIND", {"adaptive_interests": True, "relu_layer": True}, label="adaptive, relu"),
    Case("MIND", {"routing_init": "fixed", "routing_softmax": "item"}, label="fixed, item"),
    Case("YouTubeDNN", {"pad_leak": True}, label="pad leak"),
]
CASES = [*our_cases(), *MORE]
TRACED = ("DiffuRec-two chains, cosine", "DreamRec-detached target", "MIND-adaptive, relu", "SASRecCE-last, from_last")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_data(folder)
    return folder


@pytest.fixture
def as_traced(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A context in which models compute as they do while they are traced."""

    def switch(on: bool) -> None:
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda: on)

    return switch


def built(case: Case, data: Path) -> tuple[Built, Tensor]:
    """A case's model in evaluation mode, with few steps, and histories of 1 to 7 items."""
    made = build(case, data, **(FEW_STEPS if case.model in CHAINS else {}))
    made.model.eval()
    return made, made.evaluation()[made.model.ITEM_SEQ]


@torch.no_grad()
def vectors_of(model: VectorRecommender, item_seq: Tensor, row_key: Tensor | None = None) -> Tensor:
    columns = {model.ITEM_SEQ: item_seq, model.ITEM_SEQ_LEN: (item_seq > 0).sum(1)}
    if row_key is not None:
        columns[EVALUATION_ROW] = row_key
    return model.user_vectors(Interaction(columns))


def random_histories(rows: int, width: int, draw: np.random.Generator) -> tuple[Tensor, Tensor]:
    lengths = torch.from_numpy(draw.integers(1, width + 1, rows))
    lengths[0], lengths[1] = width, 1
    items = torch.from_numpy(draw.integers(1, 20, (rows, width)))
    return items.masked_fill(torch.arange(width) >= lengths[:, None], 0), lengths


@pytest.mark.parametrize("padding_tokens", [False, True])
@pytest.mark.parametrize("padded_length", [6, 9])
def test_a_segment_for_every_row_is_the_packed_layout(padding_tokens: bool, padded_length: int) -> None:
    item_seq, lengths = random_histories(11, 6, np.random.default_rng(0))
    torch.manual_seed(0)
    table = torch.randn(20, 8)
    denoiser = TransformerDenoiser(HistoryMixing(8, 4, 0.5, 0.5, True), 8, 2, 2, 0.0, "relu").eval()

    def restored(layout: PackedHistory) -> Tensor:
        condition = Condition(table[layout.item_ids], layout)
        noise = RowNoise(range(11), 1)
        return denoiser(torch.ones(11, 8), torch.full((11,), 3), condition, noise=noise)

    options: dict[str, Any] = {"padding_tokens": padding_tokens, "padded_length": padded_length}
    packed, apart = pack(item_seq, lengths, **options), rows_apart(item_seq, lengths, **options)
    assert apart.row_width == (7 if padding_tokens and padded_length == 9 else 6) and packed.row_width is None
    assert torch.equal(packed.lengths, apart.lengths)
    torch.testing.assert_close(restored(apart), restored(packed), atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("lengths", [None, torch.tensor([3, 0, 1])])
def test_noise_of_a_traced_program_is_the_rows_noise_bit_for_bit(as_traced: Any, lengths: Tensor | None) -> None:
    keys, shape = torch.tensor([5, -(2**62), 9]), (3, 3, 4)
    expected = normal_rows(keys, shape, device="cpu", dtype=torch.float32, lengths=lengths)
    as_traced(True)
    assert torch.equal(normal_rows(keys, shape, device="cpu", dtype=torch.float32, lengths=lengths), expected)


def test_items_are_kept_by_comparison_as_by_sorting(as_traced: Any) -> None:
    draw = np.random.default_rng(0)
    lengths = torch.from_numpy(draw.integers(1, 9, 40))
    weights = torch.from_numpy(draw.integers(0, 4, (40, 3, 8))).float()  # many are equal
    order = weights.argsort(dim=-1, descending=True, stable=True)
    assert torch.equal(ranks_by_comparison(weights).gather(-1, order), torch.arange(8).expand(40, 3, 8))
    for ratio in (0.07, 0.4, 0.8, 1.0):
        as_traced(False)
        expected = kept_items(weights, lengths, ratio)
        as_traced(True)
        assert torch.equal(kept_items(weights, lengths, ratio), expected)


@pytest.mark.parametrize("width", [1, 2, 5, 8, 13])
def test_sums_wrap_as_whole_numbers_do(width: int) -> None:
    item_seq, _ = random_histories(9, width, np.random.default_rng(1))
    powers = torch.full((width,), 6364136223846793005).cumprod(0)
    assert torch.equal(wrapped_sum(item_seq * powers), history_keys(item_seq))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_model_computes_its_vectors_as_when_traced(case: Case, data: Path, as_traced: Any) -> None:
    made, item_seq = built(case, data)
    keys = torch.arange(len(item_seq)) + 10
    by_history, by_key = vectors_of(made.model, item_seq), vectors_of(made.model, item_seq, keys)
    inference = watched_inference(made.model, item_seq)
    assert inference.draws_noise == (not torch.equal(by_history, by_key))
    assert inference.reverse_steps == (2 if inference.chains else 0)
    as_traced(True)
    with torch.no_grad():
        found = UserEncoder(made.model)(item_seq)
        keyed = UserEncoder(made.model, row_keys=True)(item_seq, keys)
        empty = UserEncoder(made.model)(torch.zeros(2, item_seq.shape[1], dtype=torch.int64))
    torch.testing.assert_close(found, by_history.float(), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(keyed, by_key.float(), atol=1e-5, rtol=1e-5)
    assert empty.isnan().all()


def check_traced(case: Case, data: Path) -> None:
    made, item_seq = built(case, data)
    expected = vectors_of(made.model, item_seq)
    program = trace(UserEncoder(made.model), item_seq.shape[1], case.name).module()
    for rows in (1, 2, len(item_seq)):
        torch.testing.assert_close(program(item_seq[:rows]), expected[:rows].float(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("case", [case for case in CASES if case.name in TRACED], ids=lambda case: case.name)
def test_programs_give_the_models_vectors_for_any_number_of_rows(case: Case, data: Path) -> None:
    check_traced(case, data)


def test_the_names_of_those_traced_exist() -> None:
    assert set(TRACED) <= {case.name for case in CASES}


@pytest.mark.slow
@pytest.mark.parametrize("case", [case for case in CASES if case.name not in TRACED], ids=lambda case: case.name)
def test_programs_of_all_models(case: Case, data: Path) -> None:
    check_traced(case, data)


def test_what_depends_on_values_is_refused_with_its_reason(data: Path) -> None:
    made, item_seq = built(Case("YouTubeDNN"), data)

    class CountsRows(type(made.model)):  # type: ignore[misc]
        def user_vectors(self, interaction: Any) -> Tensor:
            return super().user_vectors(interaction) * torch.ones(len(interaction[self.ITEM_SEQ]), 1, 1)

    made.model.__class__ = CountsRows
    with pytest.raises(UserError, match=r"Mine cannot be exported as torchexport: .*from .shape, not from len\(\)"):
        trace(UserEncoder(made.model), item_seq.shape[1], "Mine")


@pytest.mark.parametrize("name", ["SASRec", "Pop", "BERT4Rec"])
def test_recboles_models_are_refused(name: str) -> None:
    with pytest.raises(UserError, match=f"{name} cannot be exported: it does not rank by user and item vectors"):
        check_exportable(name)
