"""Every patch that RecBole 1.2.1 needs on today's numpy, scipy and torch, one small function each, with its reason.

RecBole was last released for numpy 1, scipy 1.12 and torch 2.5. Nothing here runs at import: :func:`apply_patches` is
called by whatever is about to use RecBole, may be called any number of times, and only adds names that are missing.
``tests/test_compat.py`` runs RecBole without each patch and fails once RecBole works without it, so that a patch
nobody needs any more does not stay.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import importlib.util
import pickle
import re
import sys
import types
from collections.abc import Iterator
from typing import Any

from recbole_diffusion.errors import UserError

RECBOLE_VERSION = "1.2.1"
INSTALL_RECBOLE = f"pip install --no-deps recbole=={RECBOLE_VERSION}"


def _installed_version(package: str) -> str | None:
    """Version of an installed package without importing it; None when it is absent."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def check_packages() -> None:
    """Raise a :class:`UserError` when RecBole is absent or another version, or pandas is too new for it.

    pandas 3 is refused, not patched: there RecBole's ``fillna(inplace=True)`` on a column silently fills nothing.
    """
    if importlib.util.find_spec("recbole") is None:
        raise UserError(f"RecBole is not installed; install it with: {INSTALL_RECBOLE}")
    version = _installed_version("recbole")
    if version is not None and version != RECBOLE_VERSION:
        raise UserError(f"RecBole {version} is installed, this needs {RECBOLE_VERSION}: {INSTALL_RECBOLE}")
    pandas_version = _installed_version("pandas") or "0"
    major = re.match(r"\d+", pandas_version)
    if major is not None and int(major.group()) >= 3:
        raise UserError(
            f"pandas {pandas_version} is installed, but RecBole {RECBOLE_VERSION} silently misreads data with pandas 3 "
            "and later: pip install 'pandas<3'"
        )


def restore_numpy_names() -> None:
    """Define the numpy names RecBole uses that numpy 1.24 and numpy 2 removed.

    ``np.float_``, ``np.complex_`` and ``np.unicode_`` are read by RecBole's ``Config.compatibility_settings`` (so even
    constructing a stock Config fails); ``np.float``, ``np.bool`` and ``np.str`` by its metrics (MRR, MAP, NDCG, GAUC),
    its batch collation and its tuner. Only missing names are set, so numpy 2's own ``np.bool`` stays.
    """
    import numpy as np

    names: dict[str, Any] = {
        "float_": np.float64,
        "complex_": np.complex128,
        "unicode_": np.str_,
        "float": np.float64,
        "bool": np.bool_,
        "str": np.str_,
    }
    for name, value in names.items():
        if name not in vars(np):
            setattr(np, name, value)


def restore_dok_matrix_update() -> None:
    """Give scipy's ``dok_matrix`` its ``_update`` back, removed in scipy 1.13.

    LightGCN, NGCF, NCL, GCMC, SpectralCF, KGIN and MCCLK fill their adjacency matrix with it.
    """
    from scipy.sparse import dok_matrix

    if not hasattr(dok_matrix, "_update"):

        def _update(self: Any, data: Any) -> None:
            self._dict.update(data)

        dok_matrix._update = _update


class _NoLogger:
    """Takes every call of a logger and does nothing."""

    def __getattr__(self, name: str) -> Any:
        return lambda *_, **__: None


@contextlib.contextmanager
def without_recbole_loggers() -> Iterator[None]:
    """While a RecBole trainer is being built, it gets loggers that log nothing.

    RecBole's trainer always writes TensorBoard events to ``./log_tensorboard``, beside whatever a person is working on,
    and begins a run of wandb's in every process, which a resumed run does not find again. What is logged here is
    ``recbole_diffusion.loggers``'.
    """
    import recbole.trainer.trainer as trainers

    before = trainers.get_tensorboard, trainers.WandbLogger
    trainers.get_tensorboard = trainers.WandbLogger = lambda _: _NoLogger()
    try:
        yield
    finally:
        trainers.get_tensorboard, trainers.WandbLogger = before


class _RecBoleUnpickler(pickle.Unpickler):
    """Reads the pickle inside RecBole's checkpoints and creates nothing but the classes such a file is made of.

    RecBole writes its whole Config into a checkpoint, with pickle protocol 4, so ``weights_only=True`` (the default
    since torch 2.6) cannot read it and ``weights_only=False`` would run any code that a file carries.
    """

    def find_class(self, module: str, name: str) -> Any:
        """The class or rebuilding function that a checkpoint asks for.

        Raises:
            UserError: a RecBole checkpoint has no need of it.
        """
        if (module, name) in _REBUILDERS or (module == "torch" and name.endswith("Storage")):
            return super().find_class(module, name)
        if module.split(".")[0] in ("recbole", "recbole_diffusion"):
            found = super().find_class(module, name)
            if isinstance(found, type) and found.__module__ == module:
                return found
        raise UserError(
            f"the checkpoint asks for {module}.{name}, which no RecBole checkpoint needs; it was not loaded"
        )


_REBUILDERS = {
    ("collections", "OrderedDict"),
    ("collections", "defaultdict"),
    ("torch", "device"),
    ("torch", "Size"),
    ("torch._utils", "_rebuild_tensor_v2"),
    ("torch._utils", "_rebuild_parameter"),
    ("torch._utils", "_rebuild_device_tensor_from_numpy"),
    ("torch.storage", "UntypedStorage"),
    ("numpy", "dtype"),
    ("numpy", "ndarray"),
    ("numpy.core.multiarray", "scalar"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "scalar"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("yaml.loader", "FullLoader"),
}


class _RecBolePickle:
    """The ``pickle_module`` that ``torch.load`` is given for RecBole's checkpoints."""

    Unpickler = _RecBoleUnpickler
    UnpicklingError = pickle.UnpicklingError


def load_recbole_checkpoint(file: Any, map_location: Any = None, **arguments: Any) -> Any:
    """Read a ``.pth`` file that RecBole wrote; like ``torch.load``.

    Raises:
        UserError: the file would create something that is not part of a RecBole checkpoint.
    """
    import torch

    if arguments.get("weights_only") is None:
        arguments.update(weights_only=False, pickle_module=_RecBolePickle)
    return torch.load(file, map_location=map_location, **arguments)


class _TorchForRecBole(types.ModuleType):
    """``torch`` as a RecBole module sees it: the same, with ``load`` reading RecBole's checkpoints."""

    load = staticmethod(load_recbole_checkpoint)

    def __getattr__(self, name: str) -> Any:
        import torch

        return getattr(torch, name)


# RecBole's modules that read checkpoints RecBole wrote: to resume or test, or to start from another model's weights.
CHECKPOINT_READERS = (
    "recbole.trainer.trainer",
    "recbole.model.general_recommender.convncf",
    "recbole.model.general_recommender.nais",
    "recbole.model.general_recommender.neumf",
    "recbole.model.general_recommender.ract",
    "recbole.model.context_aware_recommender.kd_dagfm",
    "recbole.model.sequential_recommender.s3rec",
)


def read_recbole_checkpoints() -> None:
    """Let RecBole's trainer, and those of its models that are loaded, read RecBole's checkpoints since torch 2.6.

    They see a ``torch`` whose ``load`` is :func:`load_recbole_checkpoint`; ``torch.load`` itself is not changed. Not
    reached: ``recbole.quick_start.load_data_and_model``, which imports torch inside the function.
    """
    importlib.import_module("recbole.trainer.trainer")
    for name in CHECKPOINT_READERS:
        module = sys.modules.get(name)
        if module is not None and not isinstance(vars(module).get("torch"), _TorchForRecBole):
            vars(module)["torch"] = _TorchForRecBole("torch")


_SINE = "recbole.model.sequential_recommender.sine"


def import_module(name: str) -> Any:
    """Import a module that is RecBole's or may import RecBole's models; torch's anomaly detection stays as it was.

    SINE's module turns it on when it is imported, which importing any sequential model of RecBole does: every later
    model of the process is then checked for NaN in each operation and trains at a fraction of its speed. A module that
    turns it on itself while SINE is already there is left to do so.

    Raises:
        ModuleNotFoundError: it is not there, or needs a package that is not installed.
    """
    import torch

    detects, checks = torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()
    there = _SINE in sys.modules
    try:
        return importlib.import_module(name)
    finally:
        if not there and _SINE in sys.modules:
            torch.autograd.set_detect_anomaly(detects, checks)


def apply_patches() -> None:
    """Check the installed packages and apply every patch. Safe to call again; never called at import.

    Raises:
        UserError: RecBole is absent or another version, or pandas is 3 or later.
    """
    check_packages()
    restore_numpy_names()
    restore_dok_matrix_update()
    read_recbole_checkpoints()
