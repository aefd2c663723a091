"""DiffuRecSys's yardstick: its attention against sums written out entry by entry, and its loop."""

from __future__ import annotations

import math

import torch
from reference_diffurecsys import DiffuRecSysSizes, ReferenceCrossAttention, ReferenceDiffuRecSys

SIZES = DiffuRecSysSizes(
    12, hidden_size=6, n_layers=3, n_heads=3, max_length=4, num_steps=4, lambda_mean=0.5, lambda_std=0.0
)


@torch.no_grad()
def test_cross_attention_entry_by_entry() -> None:
    torch.manual_seed(0)
    heads, size, length = 3, 2, 4
    layer = ReferenceCrossAttention(heads * size, heads, 0.0).double()
    layer.output = torch.nn.Identity()  # type: ignore[assignment]
    x, copies = torch.randn(1, length, 6).double(), torch.randn(1, length, 6).double()
    got = layer(x, copies, torch.tensor([[0.0, 1.0, 1.0, 1.0]]))[0]
    query, key, value = layer.query(copies)[0], layer.key(x)[0], layer.value(x)[0]
    assert got[0].tolist() == [-1e9] * 6  # the padded position
    for i in range(1, length):
        for head in range(heads):
            own = [float(query[i, head * size + f]) for f in range(size)]
            q_hat = [math.exp(a) / sum(math.exp(b) for b in own) for a in own]
            for e in range(size):
                expected = 0.0
                for j in range(length):  # padding too
                    for f in range(size):
                        column = [math.exp(float(key[j, h * size + f])) for h in range(heads)]
                        expected += q_hat[f] * column[head] / sum(column) * float(value[j, head * size + e])
                torch.testing.assert_close(float(got[i, head * size + e]), expected, rtol=1e-9, atol=1e-9)


def test_computing_the_blocks_without_effect_changes_nothing() -> None:
    torch.manual_seed(0)
    lean = ReferenceDiffuRecSys(SIZES).eval()
    whole = ReferenceDiffuRecSys(DiffuRecSysSizes(**{**vars(SIZES), "every_block": True})).eval()
    whole.load_state_dict(lean.state_dict())
    history = torch.tensor([[0, 0, 3, 4], [1, 2, 3, 4]])
    draws = {"x_start": torch.randn(2, 6), "step_noise": torch.randn(4, 2, 6)}
    assert torch.equal(lean.recommend(history, **draws), whole.recommend(history, **draws))
    whole.loss(history, torch.tensor([5, 6])).backward()
    grads = [block.feed_forward.first.weight.grad for block in whole.blocks]  # type: ignore[union-attr]
    assert grads[0] is None
    assert grads[1] is None
    assert grads[2] is not None


def test_training_noise_has_an_offset() -> None:
    seen = []

    class Watched(ReferenceDiffuRecSys):
        def noised(self, x_0: torch.Tensor, t: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
            seen.append(noise)
            return super().noised(x_0, t, noise)

    torch.manual_seed(0)
    model = Watched(DiffuRecSysSizes(**{**vars(SIZES), "offset_scale": 3.0}))
    model.loss(torch.ones(2000, 4, dtype=torch.long), torch.ones(2000, dtype=torch.long))
    torch.testing.assert_close(float(seen[0].mean(1).var()), 9 + 1 / 6, rtol=0.1, atol=0)
