"""The keys of a reverse chain at inference, which every diffusion model has, and the sampler that they build.

    reverse_sampler   which formula makes a step (diffusion/named_samplers.py)
    reverse_grid      which slots it visits      (diffusion/time_grids.py)
    reverse_steps     how many: a number, ~ for all T, or `auto`: the smallest number that is as good as all T on the
                      validation rows, chosen after training (training/reverse_steps_choice.py)

With `auto` a model samples with all T steps until the number is chosen; `reverse_steps_chosen` then holds it.

Shapes: T steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from recbole_diffusion.diffusion.named_samplers import build_sampler
from recbole_diffusion.diffusion.process import ReverseNoise
from recbole_diffusion.diffusion.sampler import Sampler
from recbole_diffusion.diffusion.time_grids import ReverseGrid, chain_slots
from recbole_diffusion.models.base import named_part

AUTO: Literal["auto"] = "auto"


@dataclass(frozen=True)
class ReverseChainOptions:
    """The keys of the chain; the model's YAML in properties/model holds the defaults and says what each means."""

    reverse_steps: int | Literal["auto"] | None
    reverse_steps_tolerance: float
    reverse_steps_chosen: int | None
    reverse_sampler: str
    reverse_grid: ReverseGrid | list[int]
    reverse_noise: ReverseNoise
    reverse_eta: float

    def check_chain(self, *, without_chain: str | None = None) -> None:
        """Refuse what no choice of steps can be made with.

        Args:
            without_chain: the key and value with which the model has no chain at all, where they are set.

        Raises:
            ValueError: names the key.
        """
        if not 0.0 <= self.reverse_steps_tolerance < 1.0:
            raise ValueError(
                f"reverse_steps_tolerance is {self.reverse_steps_tolerance}; it must be at least 0 and less than 1 "
                "(0.01 is 1 %)"
            )
        if self.reverse_steps != AUTO:
            return
        if isinstance(self.reverse_grid, list):
            raise ValueError(
                f"reverse_steps is auto, but reverse_grid lists its {len(self.reverse_grid)} slots; name a grid, or "
                "leave reverse_steps out"
            )
        if without_chain is not None:
            raise ValueError(f"reverse_steps is auto, but {without_chain}; leave reverse_steps out")

    @property
    def inference_steps(self) -> int | None:
        """The steps of a chain at inference, None for all T (or for what `reverse_grid` lists)."""
        return self.reverse_steps_chosen if self.reverse_steps == AUTO else self.reverse_steps

    @property
    def training_steps(self) -> int | None:
        """The steps of a chain while the model trains and validates, None for all T: a choice comes later."""
        return None if self.reverse_steps == AUTO else self.reverse_steps

    def chain(self, process: Any, steps: int | None, *, steps_key: str = "reverse_steps") -> Sampler:
        """The sampler that these keys name, with so many steps.

        Args:
            process: the diffusion process, with its `schedule`.
            steps: None for all T, or for what `reverse_grid` lists.
            steps_key: the key that the number stands under, for messages.

        Raises:
            ValueError: names the key.
        """
        slots = chain_slots(self.reverse_grid, process.schedule, steps, key=steps_key)
        cut = self.cut()
        return build_sampler(
            named_part(self.reverse_sampler), process, slots, self.reverse_eta, steps_key=steps_key, **cut
        )

    def cut(self) -> dict[str, Any]:
        """Where the chain ends early: `stop_after` and `early_result` of a sampler; nothing for most models."""
        return {}
