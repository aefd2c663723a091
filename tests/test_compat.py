"""Each patch: RecBole is broken without it (in a process of its own, where nothing is patched) and works with it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import io
import json
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import scipy
import torch

from recbole_diffusion import compat
from recbole_diffusion.errors import UserError
from recbole_diffusion.registry import recbole_directory

# What each patch is for, tried without any: prints {name: exception or ""} as JSON.
UNPATCHED = """
import json, sys, tempfile, warnings
warnings.simplefilter("ignore")
import recbole_diffusion, recbole_diffusion.compat, recbole_diffusion.registry, recbole_diffusion.command_line
early = [name for name in ("torch", "recbole", "numpy") if name in sys.modules]
import numpy as np
from types import SimpleNamespace
found = {"imported by the package alone": early}

def attempt(name, action):
    try:
        action()
        found[name] = ""
    except Exception as error:
        found[name] = f"{type(error).__name__}: {error}"

from recbole.config import Config
from recbole.evaluator import metrics
attempt("stock Config", lambda: Config(model="Pop", dataset="ml-100k"))
settings = {"topk": [2], "metric_decimal_place": 4}
hits = np.array([[0, 1], [1, 0]], dtype=bool)
for name in ("NDCG", "MRR", "MAP"):
    metric = getattr(metrics, name)(settings)
    attempt(name, lambda: metric.metric_info(hits, np.array([1, 1])) if name != "MRR" else metric.metric_info(hits))

import scipy.sparse
attempt("dok_matrix", lambda: scipy.sparse.dok_matrix((2, 2))._update({(0, 1): 1}))

import torch, recbole.trainer.trainer as trainers
from recbole.utils import ModelType
with tempfile.NamedTemporaryFile(suffix=".pth") as file:
    torch.save({"config": ModelType.GENERAL, "weights": torch.zeros(2)}, file.name, pickle_protocol=4)
    attempt("checkpoint", lambda: trainers.torch.load(file.name))
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def unpatched(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    root = Path(compat.__file__).resolve().parents[1]
    path = os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", UNPATCHED],
        capture_output=True,
        text=True,
        cwd=tmp_path_factory.mktemp("unpatched"),
        env={**os.environ, "PYTHONPATH": path},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_importing_the_package_and_its_command_line_imports_nothing_heavy(unpatched: dict[str, Any]) -> None:
    assert unpatched["imported by the package alone"] == []


# ---- numpy names ----


def test_without_the_numpy_names_a_stock_config_and_three_metrics_fail(unpatched: dict[str, Any]) -> None:
    if int(np.__version__.split(".")[0]) >= 2:
        assert "np.float_" in unpatched["stock Config"], "RecBole works without np.float_: drop the patch"
    for metric in ("NDCG", "MRR", "MAP"):
        assert "np.float" in unpatched[metric] or "has no attribute 'float'" in unpatched[metric], unpatched[metric]


@pytest.mark.parametrize("name", ["float_", "complex_", "unicode_", "float", "bool", "str"])
def test_every_restored_numpy_name_is_still_read_by_recbole(name: str) -> None:
    sources = "".join(path.read_text(encoding="utf-8") for path in recbole_directory().rglob("*.py"))
    assert re.search(rf"\bnp\.{name}(?![\w])", sources)
    compat.apply_patches()
    assert vars(np)[name]


def test_metrics_have_their_values_with_the_numpy_names() -> None:
    compat.apply_patches()
    from recbole.evaluator.metrics import MRR, NDCG

    settings = {"topk": [2], "metric_decimal_place": 4}
    second_place = np.array([[False, True]])
    ndcg = NDCG(settings).metric_info(second_place, np.array([1]))
    np.testing.assert_allclose(ndcg, [[0.0, 1 / np.log2(3)]])
    np.testing.assert_allclose(MRR(settings).metric_info(second_place), [[0.0, 0.5]])


def test_names_that_numpy_has_are_left_alone_and_a_second_call_changes_nothing() -> None:
    compat.apply_patches()
    before = {name: vars(np)[name] for name in ("float_", "bool", "str", "float64")}
    compat.apply_patches()
    assert {name: vars(np)[name] for name in before} == before
    assert np.float64 is vars(np)["float"]


# ---- scipy ----


def test_without_the_scipy_method_graph_models_fail(unpatched: dict[str, Any]) -> None:
    if tuple(map(int, scipy.__version__.split(".")[:2])) >= (1, 13):
        assert "_update" in unpatched["dok_matrix"], "scipy has dok_matrix._update again: drop the patch"
    users = [path.stem for path in (recbole_directory() / "model").rglob("*.py") if "A._update(" in path.read_text()]
    assert sorted(users) == ["gcmc", "kgin", "lightgcn", "mcclk", "ncl", "ngcf", "spectralcf"]


def test_the_scipy_method_sets_the_entries() -> None:
    compat.apply_patches()
    from scipy.sparse import dok_matrix

    matrix = dok_matrix((2, 3), dtype=np.float32)
    matrix._update({(0, 2): 1, (1, 0): 1})
    np.testing.assert_array_equal(matrix.toarray(), [[0, 0, 1], [1, 0, 0]])


# ---- checkpoints that RecBole wrote ----


def test_without_the_patch_recbole_cannot_read_its_own_checkpoint(unpatched: dict[str, Any]) -> None:
    assert "weights_only" in unpatched["checkpoint"], "torch reads RecBole's checkpoints again: drop the patch"


def test_recboles_trainer_reads_a_checkpoint_with_its_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compat.apply_patches()
    import recbole.trainer.trainer as trainers
    from recbole.config import Config

    monkeypatch.setattr(sys, "argv", ["test"])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", os.environ.get("CUDA_VISIBLE_DEVICES", "0"))  # Config writes it
    config = Config(model="Pop", dataset="ml-100k", config_dict={"epochs": 7})
    weight = torch.nn.Parameter(torch.tensor([1.5, -2.0]))
    state = {
        "config": config,
        "state_dict": {"weight": weight},
        "optimizer": torch.optim.Adam([weight]).state_dict(),
        "best_valid_score": np.float64(0.25),
    }
    torch.save(state, tmp_path / "recbole.pth", pickle_protocol=4)
    loaded = trainers.torch.load(tmp_path / "recbole.pth", map_location="cpu")
    assert loaded["config"]["epochs"] == 7
    assert loaded["config"]["MODEL_TYPE"].name == "TRADITIONAL"
    assert loaded["best_valid_score"] == 0.25
    torch.testing.assert_close(loaded["state_dict"]["weight"], weight)


class _Harmful:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return (os.mkdir, (str(self.target),))


def test_a_checkpoint_that_carries_code_is_refused_and_the_code_does_not_run(tmp_path: Path) -> None:
    compat.apply_patches()
    torch.save({"config": _Harmful(tmp_path / "made")}, tmp_path / "bad.pth", pickle_protocol=4)
    with pytest.raises(UserError, match=r"asks for (posix|nt)\.mkdir"):
        compat.load_recbole_checkpoint(tmp_path / "bad.pth")
    assert not (tmp_path / "made").exists()


def test_only_classes_of_recbole_are_made_not_its_functions_or_what_it_imports() -> None:
    for module, name in (("recbole.utils.utils", "init_seed"), ("recbole.utils.utils", "os"), ("builtins", "eval")):
        data = pickle.dumps(None)
        with pytest.raises(UserError, match=rf"{module}\.{name}"):
            compat._RecBoleUnpickler(io.BytesIO(data)).find_class(module, name)


def test_torch_load_itself_stays_strict(tmp_path: Path) -> None:
    compat.apply_patches()
    import recbole.trainer.trainer as trainers

    torch.save({"config": SimpleNamespace()}, tmp_path / "other.pth")
    with pytest.raises(pickle.UnpicklingError):
        torch.load(tmp_path / "other.pth")
    assert trainers.torch.load is not torch.load
    assert trainers.torch.optim is torch.optim


def test_checkpoint_readers_are_the_modules_of_recbole_that_load() -> None:
    found = set()
    for path in recbole_directory().rglob("*.py"):
        if "torch.load(" in path.read_text(encoding="utf-8"):
            found.add("recbole." + ".".join(path.relative_to(recbole_directory()).with_suffix("").parts))
    assert found == {*compat.CHECKPOINT_READERS, "recbole.quick_start.quick_start"}


# ---- loggers ----


def test_recbole_s_trainer_logs_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import recbole.trainer.trainer as trainers

    monkeypatch.chdir(tmp_path)
    before = trainers.get_tensorboard, trainers.WandbLogger
    with compat.without_recbole_loggers():
        trainers.get_tensorboard(None).add_scalar("loss", 1.0, 1)
        trainers.WandbLogger(SimpleNamespace(log_wandb=True)).log_metrics({"loss": 1.0})
    assert (trainers.get_tensorboard, trainers.WandbLogger) == before
    assert not list(tmp_path.iterdir())


# ---- packages ----


def test_a_model_of_recbole_leaves_anomaly_detection_as_it_was() -> None:
    code = (
        "import torch, importlib, recbole_diffusion.registry as r\n"
        "r.resolve_model('SINE')\n"
        "print(torch.is_anomaly_enabled())\n"
        "import sys; del sys.modules['recbole.model.sequential_recommender.sine']\n"
        "importlib.import_module('recbole.model.sequential_recommender.sine')\n"
        "print(torch.is_anomaly_enabled())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]  # the second is why


def test_a_model_of_a_users_own_leaves_anomaly_detection_as_it_was(tmp_path: Path) -> None:
    imports = "from recbole.model.sequential_recommender import SASRec\n\n\nclass Mine(SASRec):\n    pass\n"
    (tmp_path / "mine.py").write_text(imports, encoding="utf-8")
    debugs = "import torch\ntorch.autograd.set_detect_anomaly(True)\nthing = 1\n"  # a user's own wish stays
    (tmp_path / "debugs.py").write_text(debugs, encoding="utf-8")
    code = (
        "import torch, recbole_diffusion.registry as r\n"
        "r.resolve_model('mine:Mine')\n"
        "print(torch.is_anomaly_enabled())\n"
        "r.load_object('debugs:thing')\n"
        "print(torch.is_anomaly_enabled())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.split() == ["False", "True"]


def test_the_installed_packages_pass() -> None:
    compat.check_packages()
    assert importlib.metadata.version("recbole") == compat.RECBOLE_VERSION


def test_recbole_absent_is_one_line_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"not installed.*pip install --no-deps recbole==1\.2\.1"):
        compat.apply_patches()


@pytest.mark.parametrize(
    ("package", "version", "message"),
    [("recbole", "1.1.1", r"RecBole 1\.1\.1 .*needs 1\.2\.1"), ("pandas", "3.0.0", r"pandas 3\.0\.0 .*'pandas<3'")],
)
def test_another_version_is_refused(monkeypatch: pytest.MonkeyPatch, package: str, version: str, message: str) -> None:
    original = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: version if name == package else original(name))
    with pytest.raises(UserError, match=message):
        compat.check_packages()
