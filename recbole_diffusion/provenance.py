"""Where a result comes from: code, packages, data, device."""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

import recbole_diffusion
from recbole_diffusion.errors import UserError

PACKAGES = ("recbole", "torch", "numpy", "scipy", "pandas", "safetensors", "ray")


def package_versions() -> dict[str, str]:
    """Versions of Python, this package and those its results depend on; absent ones are left out."""
    versions = {"python": platform.python_version(), "recbole_diffusion": recbole_diffusion.__version__}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def code_version() -> dict[str, Any]:
    """The package's version and, in a git checkout, the commit and whether files differ from it."""
    version: dict[str, Any] = {"version": recbole_diffusion.__version__}
    root = Path(__file__).resolve().parents[1]
    if (root / ".git").exists():
        try:
            commit = subprocess.run(
                ["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, timeout=10, check=True
            ).stdout.strip()
            changed = subprocess.run(
                ["git", "status", "--porcelain", "--untracked-files=no"],
                cwd=root,
                capture_output=True,
                text=True,
                timeout=10,
                check=True,
            ).stdout.strip()
        except (OSError, subprocess.SubprocessError):
            return version
        version.update(commit=commit, modified=bool(changed))
    return version


def file_digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def data_fingerprint(folder: Path, dataset: Any) -> dict[str, Any]:
    """SHA-256 of a dataset's atomic files and of its internal ids, and what is left of it after filtering."""
    files = {}
    for path in sorted(folder.iterdir()):
        if path.suffix in (".inter", ".user", ".item", ".kg", ".link", ".net"):
            files[path.name] = file_digest(path)
    ids = hashlib.sha256()
    for field in (dataset.uid_field, dataset.iid_field):
        ids.update("\n".join(map(str, dataset.field2id_token[field])).encode())
    return {
        "files": files,
        "ids": ids.hexdigest(),
        "users": int(dataset.user_num) - 1,
        "items": int(dataset.item_num) - 1,
    }


def check_same_data(
    stored: Mapping[str, Any] | None, present: Mapping[str, Any] | None, path: Path, *, same_files: bool
) -> None:
    """Refuse data on which a checkpoint's internal ids would mean other users or items, or that split otherwise.

    Args:
        stored: the fingerprint in the checkpoint; None leaves the data unchecked.
        present: the fingerprint of the data at hand.
        path: the checkpoint, for the message.
        same_files: whether the interactions (`.inter`) themselves must be the same, too: wherever a run trains on or
            its validation and test rows are ranked. Other files may differ, such as items with categories.

    Raises:
        UserError: the data differ.
    """
    if stored is None or present is None:
        return
    if stored["ids"] != present["ids"]:
        raise UserError(
            f"{path} was trained on other data: {stored['users']} users and {stored['items']} items with "
            f"other ids than the {present['users']} and {present['items']} here; give its own data with data_path, "
            "and its filters"
        )
    changed = [name for name, digest in stored["files"].items() if present["files"].get(name) != digest]
    interactions = [name for name in changed if name.endswith(".inter")]
    if same_files and interactions:
        raise UserError(
            f"{path} was trained on another {interactions[0]}; give its own data with data_path, or start a new run "
            "on these: their test rows may be its training rows"
        )


def device_name(device: torch.device) -> str:
    """The device in words."""
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return f"cpu ({torch.get_num_threads()} threads)"
