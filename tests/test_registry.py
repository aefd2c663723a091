"""Names of models: ours, RecBole's, a user's own; and RecBole's own entry points after `register`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import recbole_diffusion
from recbole_diffusion import registry
from recbole_diffusion.config_protocols import KEYS_OF_PROTOCOL
from recbole_diffusion.errors import UserError
from recbole_diffusion.registry import load_object, model_names, nearest, resolve_model

OWN_MODEL = """
from dataclasses import dataclass
from recbole.model.abstract_recommender import SequentialRecommender
from recbole.model.sequential_recommender.sasrec import SASRec
from recbole.utils import InputType

@dataclass(frozen=True)
class Options:
    width: int = 8
    share: float = 0.5

class Own(SequentialRecommender):
    input_type = InputType.POINTWISE
    Options = Options

class OwnSASRec(SASRec):
    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        self.temperature = config["temperature"]

class Outer:
    class Inner:
        pass

class NoRecommender:
    pass

def halving(num_steps):
    return [0.5] * num_steps
"""


@pytest.fixture
def write_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Write a module into a fresh working directory and return its name; it is forgotten after the test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])

    def write(name: str, code: str = OWN_MODEL) -> str:
        (tmp_path / f"{name}.py").write_text(code, encoding="utf-8")
        monkeypatch.delitem(sys.modules, name, raising=False)
        return name

    return write


# ---- names ----


def test_our_names_are_the_classes_of_the_table() -> None:
    classes = registry.our_models()
    assert tuple(classes) == registry.OUR_MODEL_NAMES
    for name, model_class in classes.items():
        assert model_class.__name__ == name
        assert registry.OUR_MODELS[name].protocol in KEYS_OF_PROTOCOL
        assert (registry.properties_directory() / "model" / f"{name}.yaml").is_file()


def test_no_model_is_imported_to_list_names_or_to_resolve_another() -> None:
    code = (
        "import sys; from recbole_diffusion import registry; registry.model_names();"
        "early = [m for m in sys.modules if m.startswith('recbole_diffusion.models') or m == 'torch'];"
        "registry.resolve_model('SASRec'); registry.resolve_model('DiffuRec');"
        "names = sorted(row.module for row in registry.OUR_MODELS.values());"
        "print(early, [n for n in names if f'recbole_diffusion.models.{n}' in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.splitlines()[-1] == "[] ['diffurec']"


def test_every_properties_file_belongs_to_a_model_of_ours() -> None:
    stems = {path.stem for path in (registry.properties_directory() / "model").glob("*.yaml")}
    assert stems == set(registry.OUR_MODEL_NAMES)


def test_recboles_names_are_those_that_its_own_lookup_finds() -> None:
    from recbole.utils import get_model

    names = model_names()["RecBole"]
    assert len(names) == len(set(names)) > 70
    for name in ("SASRec", "GRU4Rec", "BERT4Rec", "Caser", "NARM", "STAMP", "Pop", "MultiVAE", "DiffRec", "LDiffRec"):
        assert name in names
        assert resolve_model(name).model_class is get_model(name)


def test_every_module_of_recbole_with_a_recommender_has_a_name() -> None:
    modules = set(registry._recbole_modules().values())
    folder = registry.recbole_directory() / "model"
    found = {
        f"recbole.model.{path.parent.name}.{path.stem}" for path in folder.glob("*/*.py") if path.stem != "__init__"
    }
    assert modules == found


@pytest.mark.parametrize(
    ("name", "dataset", "trainer"),
    [
        ("SASRec", "SequentialDataset", "Trainer"),
        ("DIEN", "DIENDataset", "Trainer"),
        ("MultiVAE", "Dataset", "Trainer"),
        ("Pop", "Dataset", "TraditionalTrainer"),
        ("RecVAE", "Dataset", "RecVAETrainer"),
        ("CKE", "KnowledgeBasedDataset", "KGTrainer"),
        ("MKR", "KnowledgeBasedDataset", "MKRTrainer"),
        ("DiffuRec", "SequentialDataset", "Trainer"),
    ],
)
def test_dataset_and_trainer_are_those_that_recbole_takes(name: str, dataset: str, trainer: str) -> None:
    from recbole.utils import get_trainer

    entry = resolve_model(name)
    assert (entry.dataset_class.__name__, entry.trainer_class.__name__) == (dataset, trainer)
    assert entry.trainer_class is get_trainer(entry.model_class.type, name)
    assert entry.ours == (name == "DiffuRec")
    assert resolve_model(entry.model_class).ours == entry.ours


@pytest.mark.parametrize(
    ("name", "hint"),
    [("diffurec", "DiffuRec"), ("DifuRec", "DiffuRec"), ("sasrec", "SASRec"), ("GRU4Rek", "GRU4Rec")],
)
def test_a_misspelt_name_has_a_hint(name: str, hint: str) -> None:
    with pytest.raises(UserError, match=f"unknown model '{name}'; did you mean '{hint}'?"):
        resolve_model(name)


def test_a_name_like_nothing_says_where_names_are() -> None:
    with pytest.raises(UserError, match=r"unknown model 'qqqqq' .*--list_models"):
        resolve_model("qqqqq")


def test_a_model_whose_package_is_absent_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "xgboost", None)
    monkeypatch.delitem(sys.modules, "recbole.model.exlib_recommender.xgboost", raising=False)
    with pytest.raises(UserError, match=r"model 'XGBoost' needs the package '(xgboost|lightgbm)'"):
        resolve_model("XGBoost")


def test_the_nearest_name_prefers_the_same_letters_and_may_be_none() -> None:
    assert nearest("NDCG", ["ndc", "ndcg", "NDCGs"]) == "ndcg"
    assert nearest("lerning_rate", ["learning_rate", "learner"]) == "learning_rate"
    assert nearest("zzz", ["learning_rate"]) is None


# ---- a user's own ----


def test_a_class_in_the_working_directory_with_options(write_module: Callable[..., str]) -> None:
    module = write_module("own_model_a")
    entry = resolve_model(f"{module}:Own")
    assert (entry.name, entry.ours) == ("Own", False)
    assert entry.options_class is sys.modules[module].Options
    assert entry.dataset_class.__name__ == "SequentialDataset"


def test_a_class_itself_is_a_model_too(write_module: Callable[..., str]) -> None:
    own = load_object(f"{write_module('own_model_b')}:Own")
    assert resolve_model(own).model_class is own


def test_a_subclass_inherits_the_defaults_of_its_base(write_module: Callable[..., str]) -> None:
    entry = resolve_model(f"{write_module('own_model_c')}:OwnSASRec")
    path = registry.default_file(entry.model_class)
    assert path is not None
    assert path.name == "SASRec.yaml"


def test_functions_and_nested_names_load(write_module: Callable[..., str]) -> None:
    module = write_module("own_model_d")
    assert load_object(f"{module}:halving")(2) == [0.5, 0.5]
    assert load_object(f"{module}:Outer.Inner").__qualname__ == "Outer.Inner"


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("no_colon", "write it as package.module:Name"),
        (":Name", "write it as package.module:Name"),
        ("module:", "write it as package.module:Name"),
        ("not_there_at_all:Name", "no module 'not_there_at_all'"),
        ("own_model_e.deeper:Name", "no module 'own_model_e.deeper'"),
        ("own_model_e:Own2", "has no 'Own2'; did you mean 'Own'"),
    ],
)
def test_a_reference_to_nothing(write_module: Callable[..., str], reference: str, message: str) -> None:
    write_module("own_model_e")
    with pytest.raises(UserError, match=message):
        load_object(reference)


def test_what_is_no_recommender_is_refused(write_module: Callable[..., str]) -> None:
    module = write_module("own_model_f")
    with pytest.raises(UserError, match="no attribute 'type'"):
        resolve_model(f"{module}:NoRecommender")
    with pytest.raises(UserError, match="is not a class"):
        resolve_model(f"{module}:halving")


def test_a_mistake_inside_the_users_module_keeps_its_traceback(write_module: Callable[..., str]) -> None:
    module = write_module("own_model_g", "import a_package_nobody_has\n")
    with pytest.raises(ModuleNotFoundError, match="a_package_nobody_has"):
        load_object(f"{module}:Own")


# ---- RecBole's own entry points ----

REGISTERED = """
import json, sys, types, warnings
warnings.simplefilter("ignore")
# run_recbole's module imports ray for its tuner, seconds that this test does not need
sys.modules["ray"] = types.SimpleNamespace(tune=None, __spec__=None)
import recbole_diffusion
from recbole.config import Config
from recbole.utils import get_model
sys.argv = ["script"]
before = {}
try:
    get_model("DiffuRec")
except Exception as error:
    before = f"{type(error).__name__}: {error}"
recbole_diffusion.register()
recbole_diffusion.register()
stock = Config(model="DiffuRec", dataset="ml-100k", config_dict={"n_layers": 3})
other = Config(model="SASRec", dataset="ml-100k", config_dict={"train_neg_sample_args": None})
found = {
    "before": before,
    "class": get_model("DiffuRec").__module__,
    "num_steps": stock["num_steps"],
    "n_layers": stock["n_layers"],
    "train_neg_sample_args": stock["train_neg_sample_args"]["distribution"],
    "recbole's own keys": sorted(set(other.final_config_dict) & {"num_steps", "noise_schedule"}),
}
from recbole.quick_start import run_recbole
settings = {
    "data_path": DATA, "epochs": 2, "eval_step": 1, "hidden_size": 16, "n_layers": 1, "n_heads": 2,
    "num_steps": 4, "load_col": {"inter": ["user_id", "item_id", "timestamp"]}, "metrics": ["NDCG", "Hit"],
    "valid_metric": "NDCG@10", "show_progress": False, "state": "ERROR", "use_gpu": False, "gpu_id": "",
}
result = run_recbole(model="DiffuRec", dataset="small", config_dict=settings)
found["test"] = {name: float(value) for name, value in result["test_result"].items()}
print(json.dumps(found))
"""


def test_recboles_own_run_finds_our_model_once_registered(tmp_path: Path, small_data: Path) -> None:
    pytest.importorskip("thop")
    pytest.importorskip("psutil")
    root = Path(recbole_diffusion.__file__).resolve().parents[1]
    done = subprocess.run(
        [sys.executable, "-c", REGISTERED.replace("DATA", repr(str(small_data)))],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert "lightgbm" in found["before"] or "DiffuRec" in found["before"]
    assert found["class"] == "recbole_diffusion.models.diffurec"
    assert (found["num_steps"], found["n_layers"], found["train_neg_sample_args"]) == (32, 3, "none")
    assert found["recbole's own keys"] == []
    assert "scheduler" in done.stderr  # RecBole's trainer has no decay, and that is said
    assert set(found["test"]) == {"ndcg@10", "hit@10"}
    assert 0 < found["test"]["ndcg@10"] <= found["test"]["hit@10"] <= 1
