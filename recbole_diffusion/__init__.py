"""Diffusion models for next-item recommendation as a plugin for RecBole.

``run`` trains and tests a model, ``evaluate`` ranks with a checkpoint, ``Recommender`` recommends for histories and
``recommend`` for a file of users, ``tune`` searches hyper-parameters, ``prepare`` makes a dataset of a table,
``register`` makes RecBole's own ``run_recbole`` know the models of this package. They are imported when first used:
importing the package imports neither RecBole nor torch nor Ray, and patches nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from recbole_diffusion.data.prepare import prepare
    from recbole_diffusion.errors import UserError
    from recbole_diffusion.quick_start import RunResult, evaluate, run
    from recbole_diffusion.recommendation.batch import recommend_file as recommend
    from recbole_diffusion.recommendation.recommender import Recommender
    from recbole_diffusion.registry import register
    from recbole_diffusion.tuning.sweep import tune

__version__ = "0.1.0"
__all__ = [
    "Recommender",
    "RunResult",
    "UserError",
    "__version__",
    "evaluate",
    "prepare",
    "recommend",
    "register",
    "run",
    "tune",
]


def __getattr__(name: str) -> Any:
    if name in ("run", "evaluate", "RunResult"):
        from recbole_diffusion import compat

        compat.check_packages()
        from recbole_diffusion import quick_start

        return {"run": quick_start.run, "evaluate": quick_start.evaluate, "RunResult": quick_start.RunResult}[name]
    if name in ("Recommender", "recommend"):
        from recbole_diffusion import compat

        compat.check_packages()
        from recbole_diffusion.recommendation import batch, recommender

        return recommender.Recommender if name == "Recommender" else batch.recommend_file
    if name == "tune":
        from recbole_diffusion import compat

        compat.check_packages()
        from recbole_diffusion.tuning import sweep

        return sweep.tune
    if name == "prepare":
        from recbole_diffusion.data.prepare import prepare

        return prepare
    if name == "register":
        from recbole_diffusion.registry import register

        return register
    if name == "UserError":
        from recbole_diffusion.errors import UserError

        return UserError
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
