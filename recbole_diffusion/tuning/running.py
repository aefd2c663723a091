"""The trials of a sweep, run to their end on a running Ray; then the choice, the test and the results."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

from recbole_diffusion.errors import UserError
from recbole_diffusion.ray_session import ray_running
from recbole_diffusion.tuning import plots
from recbole_diffusion.tuning.options import SweepOptions
from recbole_diffusion.tuning.outcome import SweepResult, finish
from recbole_diffusion.tuning.placement import ENVIRONMENT, module_places
from recbole_diffusion.tuning.request import Request
from recbole_diffusion.tuning.results import UNFINISHED, collect, write_tables
from recbole_diffusion.tuning.search_space import SearchSpace
from recbole_diffusion.tuning.sweep_folder import SweepFolder
from recbole_diffusion.tuning.trial import TrialPlan

logger = logging.getLogger(__name__)


def ray_of(plan: TrialPlan, asked: Request) -> AbstractContextManager[Any]:
    """Ray for the trials of a plan, to be entered; a cluster gets the user's own modules that trials need."""
    references = [value for value in (plan.model, *plan.given.values()) if isinstance(value, str) and ":" in value]
    return ray_running(asked.address, environment=ENVIRONMENT, modules=module_places(references), logs=asked.logs)


def run_trials(
    ray: Any,
    folder: SweepFolder,
    facts: Mapping[str, Any],
    plan: TrialPlan,
    space: SearchSpace,
    options: SweepOptions,
    asked: Request,
    *,
    restore: bool,
) -> SweepResult:
    """Run the trials that are left, then choose, test and write.

    Raises:
        UserError: no trial can be chosen, or the disk is full.
        KeyboardInterrupt: it was interrupted; the folder can be resumed.
    """
    from recbole_diffusion.tuning import experiment, progress  # these import Ray

    began = time.monotonic()
    folder.take_reserve()
    progress.reserve = folder.reserve
    try:
        if restore:
            tuner = experiment.restored_tuner(plan, options, folder, gpus=facts["gpus"])
        else:
            tuner = experiment.new_tuner(
                plan, space, options, folder, epochs=facts["epochs"], eval_step=facts["eval_step"],
                gpus=facts["gpus"], show_progress=asked.show, logs=asked.logs,
            )  # fmt: skip
        grid = tuner.fit()
        took = time.monotonic() - began
        folder.release_reserve()
        in_time = options.time_budget is None or took < options.time_budget
        rows = collect(grid, progress.ended, plan.bigger, progress.running if in_time else ())
        write_tables(folder, rows)
    except KeyboardInterrupt as interrupt:
        raise _interrupted(folder) from interrupt
    except Exception as error:  # whatever Ray makes of files that are cut short
        if not folder.full:
            raise
        raise UserError(
            f"the disk of {folder.path} is full; make room and go on with --resume={folder.path}"
        ) from error
    finally:
        folder.release_reserve()
    if in_time and (any(row.state == UNFINISHED for row in rows) or len(rows) < options.trials(space)):
        raise _interrupted(folder)
    plots.write_plots(folder, grid, rows, space, facts["metric"])
    logger.info("testing the best trial")
    return finish(ray, folder, facts, plan, rows, cpus=options.cpus_per_trial, gpus=facts["gpus"], seconds=took)


def _interrupted(folder: SweepFolder) -> KeyboardInterrupt:
    """What the command line needs to say how to go on."""
    interrupt = KeyboardInterrupt()
    interrupt.run_folder, interrupt.word = folder.path, " tune"  # type: ignore[attr-defined]
    return interrupt
