"""Every patch that RecBole 1.2.1 needs on today's numpy, scipy and torch, one small function each, with its reason.

RecBole was last released for numpy 1, scipy 1.12 and torch 2.5. Nothing here runs at import: :func:`apply_patches` is
called by whatever is about to use RecBole, may be called any number of times, and only adds names that are missing.
``tests/test_compat.py`` runs RecBole without each patch and fails once RecBole works without it, so that a patch
nobody needs any more does not stay.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
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


def apply_patches() -> None:
    """Check the installed packages and apply every patch. Safe to call again; never called at import.

    Raises:
        UserError: RecBole is absent or another version, or pandas is 3 or later.
    """
    check_packages()
    restore_numpy_names()
    restore_dok_matrix_update()
