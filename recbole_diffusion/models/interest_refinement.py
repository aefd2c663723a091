"""Refining interests by diffusion: noise an interest, restore it from the items behind it, mix both (DMI, section 3.2).

    C = H[top ceil(gamma n) of a];  x_t = sqrt(ab_t) x_0 + sqrt(1 - ab_t) eps;  x_0_hat = f(x_t, t, C)   (Eq. 7, 11, 12)
    z = eta x_0_hat + (1 - eta) v                                                                        (Eq. 13)

Training restores one interest of each row in one step, inference all K of them in a reverse chain that starts at
x_T, the interest itself noised to t = T (Algorithms 1 and 2). Where gradients stop (docs/decisions/080):

    detach_interest     True: x_0 = sg(v), as noised and as the target of the reconstruction
    detach_condition    always: C is a constant; reconstruction: for the reconstruction alone, which takes a second
                        pass through f; never

With both at their defaults the reconstruction trains f alone, while ranking z trains f and, through (1 - eta) v, the
extractor.

Shapes: B rows, K interests, L history, D embedding, T steps.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from recbole_diffusion.diffusion.noise import NoiseSource, ZeroNoise
from recbole_diffusion.diffusion.process import GaussianProcess
from recbole_diffusion.diffusion.sampler import Sampler
from recbole_diffusion.interests.multi_interest import Interests
from recbole_diffusion.interests.pruning import kept_items
from recbole_diffusion.losses.reconstruction import ReconstructionLoss, reconstruction_distance

logger = logging.getLogger(__name__)

DetachCondition = Literal["always", "reconstruction", "never"]


@dataclass(frozen=True)
class Reconstruction:
    """How far restored interests are from what they were, beside what returning them noised as they are would score.

    Where the two are equal the denoiser has learned to copy, and refining changes nothing.

    Attributes:
        restored: (B,) distance of x_0_hat and x_0.
        copied: (B,) distance of x_t and x_0, without gradient.
    """

    restored: Tensor
    copied: Tensor


class InterestRefinement(nn.Module):
    """Diffusion over interests.

    Where training pauses to validate, the mean reconstruction since then is logged beside that of copying.

    Args:
        denoiser: f, with `prepare(tokens (B, L, D), keep (B, Q, L))` and a call as every denoiser's.
        process: the forward process.
        sampler: the reverse chain.
        noise: what training noises interests with.
        keep_ratio: gamma, above 0 and at most 1.
        fusion_weight: eta, 0..1.
        detach_interest: see the module.
        detach_condition: see the module.
        distance: `euclidean` (Eq. 18) or `mse`.
        start_noise: whether inference noises the interest (Algorithm 2) or only scales it by sqrt(ab_T).

    Raises:
        ValueError: keep_ratio or fusion_weight out of range.
    """

    def __init__(
        self,
        denoiser: Any,
        process: GaussianProcess,
        sampler: Sampler,
        noise: NoiseSource,
        *,
        keep_ratio: float,
        fusion_weight: float,
        detach_interest: bool = True,
        detach_condition: DetachCondition = "always",
        distance: ReconstructionLoss = "euclidean",
        start_noise: bool = True,
    ) -> None:
        super().__init__()
        if not 0.0 < keep_ratio <= 1.0:
            raise ValueError(f"keep_ratio is {keep_ratio}; it must be above 0 and at most 1 (1 keeps every item)")
        if not 0.0 <= fusion_weight <= 1.0:
            raise ValueError(f"fusion_weight is {fusion_weight}; it must lie in 0..1")
        self.denoiser = denoiser
        self.process = process
        self.sampler = sampler
        self.noise = noise
        self.keep_ratio = keep_ratio
        self.fusion_weight = fusion_weight
        self.detach_interest = detach_interest
        self.detach_condition = detach_condition
        self.distance: ReconstructionLoss = distance
        self.start_noise = start_noise
        self._seen: tuple[Tensor, int] = (torch.zeros(()), 0)  # sums and rows of training since the last report

    def fuse(self, restored: Tensor, interest: Tensor) -> Tensor:
        """Eq. 13, of two (..., D)."""
        return self.fusion_weight * restored + (1.0 - self.fusion_weight) * interest

    def restore(
        self, interest: Tensor, weights: Tensor, items: Tensor, lengths: Tensor, t: Tensor
    ) -> tuple[Tensor, Reconstruction]:
        """Noise one interest of each row to its slot, restore it in one step, and mix (Algorithm 1, lines 5 to 8).

        Args:
            interest: (B, D) v.
            weights: (B, L) a, the weights with which it took the items.
            items: (B, L, D) embedded histories.
            lengths: (B,) their real lengths.
            t: (B,) slots.

        Returns:
            z (B, D), and how well x_0 was restored.
        """
        keep = kept_items(weights[:, None], lengths, self.keep_ratio)
        x_0 = interest.detach() if self.detach_interest else interest
        x_t = self.process.sample(x_0, t, noise=self.noise).x_t

        def once(tokens: Tensor) -> Tensor:
            condition = self.denoiser.prepare(tokens, keep)
            x_0_hat: Tensor = self.denoiser(x_t[:, None], t, condition, noise=self.noise)
            return x_0_hat[:, 0]

        restored = ranked = once(items if self.detach_condition == "never" else items.detach())
        if self.detach_condition == "reconstruction":
            ranked = once(items)
        with torch.no_grad():
            copied = reconstruction_distance(x_t, x_0, self.distance)
        found = Reconstruction(reconstruction_distance(restored, x_0, self.distance), copied)
        if self.training:
            sums = torch.stack([found.restored.detach().sum(), copied.sum()])
            self._seen = (self._seen[0] + sums, self._seen[1] + len(copied))
        return self.fuse(ranked, interest), found

    def condition(self, interests: Interests, items: Tensor, lengths: Tensor) -> Any:
        """What the denoiser may look at: the kept items of every interest, for any number of chains.

        Args:
            interests: vectors (B, K, D) and weights (B, K, L).
            items: (B, L, D) embedded histories.
            lengths: (B,) their real lengths.
        """
        return self.denoiser.prepare(items, kept_items(interests.weights, lengths, self.keep_ratio))

    def chain(self, vectors: Tensor, condition: Any, *, noise: NoiseSource) -> Tensor:
        """Refine all interests (Algorithm 2, lines 3 to 9): K queries over one history, in one chain.

        Args:
            vectors: (B, K, D) the interests.
            condition: of :meth:`condition`.
            noise: draws of a row, in this order: the start's (K, D) where there is one, then the chain's.

        Returns:
            (B, K, D) z.
        """
        last = torch.full((vectors.shape[0],), self.process.num_steps - 1, device=vectors.device)
        start = self.process.sample(vectors, last, noise=noise if self.start_noise else ZeroNoise()).x_t
        return self.fuse(self.sampler(self.denoiser, start, condition, noise=noise), vectors)

    def train(self, mode: bool = True) -> InterestRefinement:
        """As every module's, and the report."""
        sums, rows = self._seen
        if not mode and rows:
            restored, copied = (sums / rows).tolist()
            logger.info("noised interests are restored with an error of %.4f; left as they are: %.4f", restored, copied)
            self._seen = (torch.zeros(()), 0)
        super().train(mode)
        return self
