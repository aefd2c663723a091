"""`reverse_steps: auto`: which number is chosen, that it is stored and used, and that a cut choice goes on."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from recbole_diffusion.command_line import main
from recbole_diffusion.config import RunConfig
from recbole_diffusion.errors import UserError
from recbole_diffusion.quick_start import RunResult, evaluate, run
from recbole_diffusion.recommendation.recommender import Recommender
from recbole_diffusion.registry import resolve_model
from recbole_diffusion.session import TrainingSession
from recbole_diffusion.training.checkpoint import read_checkpoint, write_checkpoint
from recbole_diffusion.training.reverse_steps_choice import fewest_steps
from recbole_diffusion.training.run_folder import RunFolder
from recbole_diffusion.training.trainer import RunTrainer
from tests.models.tiny import TINY, Items, interaction

from .test_resume import KEYS

AUTO: dict[str, Any] = {
    **KEYS,
    "num_steps": 8,
    "epochs": 2,
    "lambda_mean": 0.5,
    "lambda_std": 0.3,
    "item_init_std": 0.1,
    "reverse_steps": "auto",
    "reverse_steps_tolerance": 0.02,
}
ROWS, TARGETS = [[3, 9, 4], [7], [1, 2, 3, 4, 5, 6]], [5, 6, 7]
DIFFUSION_MODELS = ("DiffuRec", "DiffuRecSys", "DimeRec", "DreamRec", "DMI")


# --- which number -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "tolerance", "chosen", "asked"),
    [
        ({1: 0.5, 16: 0.5}, 0.01, 1, [16, 1]),
        ({1: 0.496, 16: 0.5}, 0.01, 1, [16, 1]),  # 0.8 % lost
        ({1: 0.1, 2: 0.2, 3: 0.496, 4: 0.5, 16: 0.5}, 0.01, 3, [16, 1, 2, 4, 3]),
        ({1: 0.1, 2: 0.2, 3: 0.494, 4: 0.5, 16: 0.5}, 0.01, 4, [16, 1, 2, 4, 3]),
        ({1: 0.9, 16: 0.5}, 0.0, 1, [16, 1]),  # better is within every tolerance
        ({1: 0.1, 2: 0.1, 4: 0.1, 8: 0.1, 12: 0.1, 14: 0.1, 15: 0.1, 16: 0.5}, 0.01, 16, [16, 1, 2, 4, 8, 12, 14, 15]),
        ({1: 0.4, 2: 0.5, 16: 0.5}, 0.0, 2, [16, 1, 2]),
    ],
)
def test_the_fewest_that_lose_no_more_than_the_tolerance(
    values: dict[int, float], tolerance: float, chosen: int, asked: list[int]
) -> None:
    measured: dict[int, float] = {}

    def measure(steps: int) -> float:
        measured.setdefault(steps, values[steps])
        return measured[steps]

    assert fewest_steps(measure, 16, tolerance) == chosen
    assert list(measured) == asked
    assert fewest_steps(lambda steps: -values[steps], 16, tolerance, larger_is_better=False) == chosen


def test_it_is_the_smallest_where_quality_grows_with_the_steps() -> None:
    for num_steps in (1, 2, 3, 10, 33):
        for enough in range(1, num_steps + 1):
            chosen = fewest_steps(lambda steps, enough=enough: min(steps, enough) / enough, num_steps, 0.001)
            assert chosen == enough


def test_what_is_compared() -> None:
    from recbole_diffusion.training.reverse_steps_choice import _compared_metric as compared

    measured = {"metrics": ["Hit", "ndcg"], "topk": [5, 10], "valid_metric": "Hit@5", "valid_metric_bigger": True}
    assert compared(measured) == ("NDCG@10", True)
    assert compared({**measured, "topk": [5]}) == ("Hit@5", True)
    assert compared({**measured, "metrics": ["RMSE"], "valid_metric": "RMSE", "valid_metric_bigger": False}) == (
        "RMSE",
        False,
    )


# --- every model ------------------------------------------------------------------------------------------------------


def build(name: str, **keys: Any) -> Any:
    torch.manual_seed(1)
    config = RunConfig(name, "tiny", (), {**TINY, "n_heads": 2, "n_layers": 1, **keys})
    return resolve_model(name).model_class(config, Items(51)).eval()


def calls_of_the_denoiser(model: Any) -> int:
    """How often one batch's user vectors ask the denoiser; rows of one length, so that there is one chain."""
    calls = []
    denoiser = getattr(model, "refinement", model).denoiser
    handle = denoiser.register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        model.user_vectors(interaction([[1, 2], [3, 4]], [5, 6]))
    handle.remove()
    return len(calls)


@pytest.mark.parametrize("name", DIFFUSION_MODELS)
def test_every_model_samples_with_the_chosen_number(name: str) -> None:
    model = build(name, reverse_steps="auto")
    assert calls_of_the_denoiser(model) == 8  # nothing is chosen yet
    model.use_reverse_steps(3)
    assert calls_of_the_denoiser(model) == 3
    model.use_reverse_steps(None)
    assert calls_of_the_denoiser(model) == 8
    assert calls_of_the_denoiser(build(name, reverse_steps="auto", reverse_steps_chosen=2)) == 2
    assert calls_of_the_denoiser(build(name, reverse_steps=5, reverse_steps_chosen=2)) == 5  # no auto, no choice


@pytest.mark.parametrize("name", DIFFUSION_MODELS)
def test_every_model_takes_every_sampler_and_grid(name: str) -> None:
    euclidean = {"noise_space": "euclidean"} if name == "DimeRec" else {}
    batch, found = interaction(ROWS, TARGETS), {}
    mixed = {"lambda_mean": 0.5} if name.startswith("DiffuRec") else {}
    noised = {"variance_scale": 100.0} if name == "DMI" else {}  # at DMI's own variances hardly any noise is left
    for sampler in ("grid", "ddpm", "ddim", "dpm_solver_pp"):
        keys = {"reverse_sampler": sampler, "reverse_noise": "sqrt_posterior", **euclidean, **mixed, **noised}
        with torch.no_grad():
            found[sampler] = build(name, reverse_steps=4, **keys).user_vectors(batch)
    assert torch.equal(found["grid"], found["ddpm"])
    assert not torch.allclose(found["ddim"], found["ddpm"])
    assert not torch.allclose(found["dpm_solver_pp"], found["ddim"])
    model = build(name, reverse_grid=[7, 5, 2])
    assert getattr(model, "refinement", model).sampler.grid == (7, 5, 2)
    assert calls_of_the_denoiser(build(name, reverse_grid="log_snr", reverse_steps=4)) == 4


def test_keys_that_do_not_go_together() -> None:
    for keys, message in [
        ({"reverse_steps": "auto", "reverse_grid": [7, 0]}, "is auto, but reverse_grid lists its 2 slots"),
        ({"reverse_steps_tolerance": 1.5}, "reverse_steps_tolerance is 1.5; it must be at least 0 and less than 1"),
        ({"reverse_steps": "many"}, "reverse_steps must be an integer or one of auto or ~, got 'many'"),
        ({"reverse_steps": 4, "reverse_grid": [7, 0]}, "reverse_grid lists 2 slots, but reverse_steps is 4"),
    ]:
        with pytest.raises((UserError, ValueError), match=message):
            build("DiffuRec", **keys)
    for name, keys, message in [
        ("DMI", {"diffusion": False}, "diffusion is False, which leaves no chain"),
        ("DimeRec", {"rank_by": "guidance"}, "rank_by is guidance, which has no chain"),
        ("DimeRec", {"intermediate_steps": 2}, "intermediate_steps is 2, which cuts every chain there"),
    ]:
        with pytest.raises(UserError, match=f"^reverse_steps is auto, but {message}; leave reverse_steps out"):
            build(name, reverse_steps="auto", **keys)
    with pytest.raises(ValueError, match="noise_space: euclidean"):
        build("DimeRec", reverse_sampler="dpm_solver_pp")


# --- a run ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def chosen(small_data: Path, tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    return run("DiffuRec", "small", AUTO, data_path=small_data, output=tmp_path_factory.mktemp("auto"))


def test_the_choice_is_that_of_evaluations_by_hand_and_is_stored(chosen: RunResult, tmp_path: Path) -> None:
    choice = chosen.reverse_steps_choice
    assert choice is not None and choice["metric"] == "NDCG@10" and choice["num_steps"] == 8
    for steps, value in choice["measured"].items():
        assert evaluate(chosen.folder, {"reverse_steps": int(steps)}, output=tmp_path).valid_result["ndcg@10"] == value
    full, number = choice["measured"]["8"], choice["chosen"]
    good = [int(steps) for steps, value in choice["measured"].items() if value >= 0.98 * full]
    assert number == min(good) < 8
    result = json.loads((chosen.folder / "result.json").read_text())
    facts = json.loads((chosen.folder / "best" / "model.json").read_text())
    stored = read_checkpoint(chosen.folder / "best" / "model.safetensors").facts
    config = yaml.safe_load((chosen.folder / "config.yaml").read_text())
    assert facts == stored
    assert result["reverse_steps_choice"] == stored["reverse_steps_choice"] == choice
    for keys in (config, stored["config"]):
        assert keys["reverse_steps"] == "auto" and keys["reverse_steps_chosen"] == number
    log = (chosen.folder / "run.log").read_text()
    assert f"auto chose {number} of 8 steps" in log and f"8 of 8 reverse steps: validation NDCG@10 {full:.6f}," in log


def test_the_choice_is_used_everywhere(chosen: RunResult, tmp_path: Path) -> None:
    number = chosen.reverse_steps_choice["chosen"]  # type: ignore[index]
    with_number = evaluate(chosen.folder, {"reverse_steps": number}, output=tmp_path)
    assert chosen.test_result == with_number.test_result
    again = evaluate(chosen.folder, output=tmp_path)
    assert again.test_result == chosen.test_result and again.reverse_steps_choice is None
    assert evaluate(chosen.folder, {"reverse_steps": None}, output=tmp_path).test_result != chosen.test_result
    assert len(Recommender.load(chosen.folder, device="cpu").model.sampler.grid) == number
    assert len(Recommender.load(chosen.folder, device="cpu", config={"reverse_steps": 6}).model.sampler.grid) == 6


def test_a_finished_runs_number_is_chosen_by_evaluate_and_the_run_stays(
    chosen: RunResult, small_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.read_bytes() for path in chosen.folder.rglob("*") if path.is_file()}
    words = [f"--checkpoint={chosen.folder}", f"--data_path={small_data}", f"--output={tmp_path}"]
    assert main(["evaluate", *words, "--reverse_steps=auto", "--reverse_steps_tolerance=0.5"]) == 0
    (folder,) = tmp_path.iterdir()
    result = json.loads((folder / "result.json").read_text())
    assert result["reverse_steps_choice"]["chosen"] == 1 and result["reverse_steps_choice"]["tolerance"] == 0.5
    assert set(result["reverse_steps_choice"]["measured"]) == {"1", "8"}
    assert yaml.safe_load((folder / "config.yaml").read_text())["reverse_steps_chosen"] == 1
    assert "is left as it is; --reverse_steps=1 gives it this number" in (folder / "run.log").read_text()
    assert {path: path.read_bytes() for path in chosen.folder.rglob("*") if path.is_file()} == before
    # another chain has no number yet: evaluate chooses one, a recommender cannot
    other = evaluate(chosen.folder, {"reverse_sampler": "ddim"}, output=tmp_path / "ddim")
    assert other.reverse_steps_choice is not None
    with pytest.raises(UserError, match="has reverse_steps: auto and no number for this chain yet"):
        Recommender.load(chosen.folder, device="cpu", config={"reverse_sampler": "ddim"})


def test_an_interrupted_choice_goes_on(
    chosen: RunResult,
    small_data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    evaluations: list[int] = []
    evaluate_rows = RunTrainer.evaluate

    def interrupted(self: Any, data: Any, *arguments: Any, **keys: Any) -> Any:
        evaluations.append(len(self.model.sampler.grid))
        if len(evaluations) == 4:  # two validations, the full chain, and now one step
            raise KeyboardInterrupt
        return evaluate_rows(self, data, *arguments, **keys)

    with monkeypatch.context() as patch:
        patch.setattr(RunTrainer, "evaluate", interrupted)
        with caplog.at_level(logging.WARNING), pytest.raises(KeyboardInterrupt) as raised:
            run("DiffuRec", "small", AUTO, data_path=small_data, output=tmp_path)
    folder = raised.value.run_folder  # type: ignore[attr-defined]
    assert evaluations == [8, 8, 8, 1]
    assert f"go on with --resume={folder}" in caplog.text
    assert not (folder / "result.json").exists()
    with pytest.raises(UserError, match="no number for this chain yet"):
        Recommender.load(folder, device="cpu")

    evaluations.clear()
    with monkeypatch.context() as patch:
        patch.setattr(
            RunTrainer,
            "evaluate",
            lambda self, *a, **k: evaluations.append(len(self.model.sampler.grid)) or evaluate_rows(self, *a, **k),
        )
        resumed = run(resume=folder)
    assert 8 not in evaluations  # the full chain was measured before
    assert resumed.reverse_steps_choice == chosen.reverse_steps_choice
    assert resumed.test_result == chosen.test_result


def test_more_epochs_choose_anew_and_train_with_the_full_chain(
    small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run("DiffuRec", "small", {**AUTO, "epochs": 1}, data_path=small_data, output=tmp_path)
    steps: list[int] = []
    evaluate_rows = RunTrainer.evaluate

    def noted(self: Any, *arguments: Any, **keys: Any) -> Any:
        model = self.model
        steps.append(len((model.valid_sampler if model.validating else model.sampler).grid))
        return evaluate_rows(self, *arguments, **keys)

    monkeypatch.setattr(RunTrainer, "evaluate", noted)
    longer = run(resume=first.folder, config={"epochs": 2})
    assert longer.best_epoch == 2
    assert steps[:2] == [8, 8]  # the second epoch's validation, and the full chain of the choice
    assert longer.reverse_steps_choice["measured"]["8"] == longer.best_valid_score  # type: ignore[index]


def test_a_run_repeats_from_its_own_configuration(chosen: RunResult, tmp_path: Path) -> None:
    again = run(config_files=[chosen.folder / "config.yaml"], output=tmp_path)
    assert again.valid_result == chosen.valid_result and again.reverse_steps_choice == chosen.reverse_steps_choice


def test_without_validation_rows_nothing_is_chosen(small_data: Path, tmp_path: Path) -> None:
    keys = {**AUTO, "protocol": "eval_args", "eval_args": {"split": {"RS": [0.9, 0.0, 0.1]}, "order": "TO"}}
    with pytest.raises(UserError, match="reverse_steps is auto, which is chosen on the validation rows, but"):
        run("DiffuRec", "small", keys, data_path=small_data, output=tmp_path)
    assert not tmp_path.exists() or not list(tmp_path.iterdir())


def test_figures_of_other_weights_are_not_used(chosen: RunResult, tmp_path: Path) -> None:
    """A kept figure belongs to one epoch's weights: with another best epoch everything is measured again."""
    from recbole_diffusion.training import reverse_steps_choice as module

    folder = RunFolder(tmp_path)
    owner = {"weights": "epoch 1", "metric": "NDCG@10", "num_steps": 8}
    module._keep(folder, owner, {8: 0.25})
    assert module._kept(folder, owner) == {8: 0.25}
    assert module._kept(folder, {**owner, "weights": "epoch 2"}) == {}
    folder.reverse_steps.write_text("no JSON")
    assert module._kept(folder, owner) == {}


def test_a_checkpoint_of_an_older_version_has_no_such_keys(chosen: RunResult, small_data: Path, tmp_path: Path) -> None:
    stored = read_checkpoint(chosen.folder / "best" / "model.safetensors")
    new = ("reverse_steps_tolerance", "reverse_steps_chosen", "reverse_grid")
    old = {key: value for key, value in stored.facts["config"].items() if key not in new}
    stored.facts["config"] = {**old, "reverse_steps": 3}
    write_checkpoint(tmp_path / "old.safetensors", stored)
    settings = {"data_path": str(small_data)}
    assert (
        evaluate(tmp_path / "old.safetensors", settings, output=tmp_path / "runs").test_result
        == evaluate(chosen.folder, {"reverse_steps": 3}, output=tmp_path / "runs").test_result
    )


def test_a_model_without_a_chain_has_nothing_to_choose(small_data: Path, tmp_path: Path) -> None:
    config = RunConfig("SASRec", "small", (), {"data_path": str(small_data), "use_gpu": False, "epochs": 1})
    session = TrainingSession(config, RunFolder.create(tmp_path, "SASRec"))
    session.choose_reverse_steps()
    assert session.steps_choice is None
