"""The package as its users get it: as a wheel, editable, or straight from a checkout.

Wheels are built and installed by pip from a copy of the tree, without build isolation and without an index: nothing is
fetched. What is installed is looked at in a fresh interpreter that starts with `-S`: it sees the dependencies of this
one, but not the installation of this package that the tests themselves may run in.
"""

from __future__ import annotations

import configparser
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from email.parser import Parser
from importlib.metadata import entry_points
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
SITE_PACKAGES = [folder for folder in sys.path if folder.endswith(("site-packages", "dist-packages"))]
WHERE_THINGS_ARE = """
import json, recbole_diffusion
from recbole_diffusion.registry import properties_directory
print(json.dumps([recbole_diffusion.__file__, str(properties_directory())]))
"""
# What RecBole imports in functions alone, or nowhere: the base installation works without.
NOT_NEEDED_BY_THE_BASE = ("ray", "hyperopt", "plotly", "tabulate", "thop", "psutil", "kmeans_pytorch", "matplotlib")


def fresh_python(code: str, *, first: Path | None, cwd: Path, pth: bool = False) -> subprocess.CompletedProcess[str]:
    """Run `code` in an interpreter that finds modules in the folder `first`, then among this one's dependencies.

    With `pth`, the `.pth` files of `first` are read, as `site` does for site-packages.
    """
    setup = f"import sys; sys.path[1:1] = {[str(first)] if first else []!r}; sys.path += {SITE_PACKAGES!r}\n"
    if pth:
        setup += f"import site; site.addsitedir({str(first)!r})\n"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-S", "-c", setup + code]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300, check=False)


def where_things_are(first: Path, *, cwd: Path, pth: bool = False) -> tuple[Path, Path]:
    """Folder of the package and its properties directory, as an interpreter that starts in `cwd` finds them."""
    done = fresh_python(WHERE_THINGS_ARE, first=first, cwd=cwd, pth=pth)
    assert done.returncode == 0, done.stderr
    package_file, properties = json.loads(done.stdout.splitlines()[-1])
    return Path(package_file).resolve().parent, Path(properties).resolve()


def pip(*arguments: str | Path) -> None:
    """Run this interpreter's pip without an index; what it says is shown when it fails."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def yaml_files(properties: Path) -> dict[str, bytes]:
    """Relative name -> content of all YAML files below a properties directory."""
    return {str(path.relative_to(properties)): path.read_bytes() for path in properties.rglob("*.yaml")}


@pytest.fixture(scope="module")
def source_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what a wheel is built from, so that building leaves nothing in the checkout."""
    tree = tmp_path_factory.mktemp("checkout")
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree / name)
    for name in ("recbole_diffusion", "properties", "tests"):
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    return tree


@pytest.fixture(scope="module")
def wheel(source_tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel built from the copy."""
    folder = tmp_path_factory.mktemp("dist")
    pip("wheel", "--no-deps", "--no-index", "--no-build-isolation", "--wheel-dir", folder, source_tree)
    (built,) = folder.glob("*.whl")
    return built


def test_wheel_holds_every_module_yaml_and_printed_figure_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        metadata_names = {name.split(".dist-info/")[1] for name in archive.namelist() if ".dist-info/" in name}
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "recbole_diffusion").rglob("*.py")}
    yamls = {f"recbole_diffusion/properties/{name}" for name in yaml_files(ROOT / "properties")}
    assert "recbole_diffusion/properties/overall.yaml" in yamls
    printed = {str(path.relative_to(ROOT)) for path in (ROOT / "recbole_diffusion").rglob("*.json")}
    assert "recbole_diffusion/analyses/published/DMI.table5.json" in printed
    page = {f"recbole_diffusion/reporting/page.{suffix}" for suffix in ("html", "css", "js")}
    assert names == modules | yamls | printed | page | {"recbole_diffusion/py.typed"}
    assert "licenses/LICENSE" in metadata_names


def test_wheel_declares_no_recbole_and_starts_the_command_line(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (metadata_name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = Parser().parsestr(archive.read(metadata_name).decode())
        scripts = configparser.ConfigParser()
        scripts.read_string(archive.read(metadata_name.replace("METADATA", "entry_points.txt")).decode())
    required = {canonicalize_name(Requirement(line).name) for line in metadata.get_all("Requires-Dist", [])}
    assert {"torch", "pandas", "safetensors"} <= required
    assert "recbole" not in required
    assert metadata["Requires-Python"] == ">=3.10"
    assert dict(scripts["console_scripts"]) == {"recbole-diff": "recbole_diffusion.command_line:main"}


def test_properties_are_found_when_installed_as_a_wheel(wheel: Path, tmp_path: Path) -> None:
    target = tmp_path / "site"
    pip("install", "--no-deps", "--no-index", "--target", target, wheel)
    package, properties = where_things_are(target, cwd=tmp_path)
    assert package == target / "recbole_diffusion"
    assert properties == target / "recbole_diffusion" / "properties"
    assert yaml_files(properties) == yaml_files(ROOT / "properties")


@pytest.mark.skipif(
    any((Path(folder) / "recbole_diffusion").is_dir() for folder in SITE_PACKAGES),
    reason="the package is installed as a wheel in this environment, which goes before an editable one",
)
def test_properties_are_found_when_installed_editable(source_tree: Path, tmp_path: Path) -> None:
    target = tmp_path / "site"
    pip("install", "--no-deps", "--no-index", "--no-build-isolation", "--target", target, "--editable", source_tree)
    package, properties = where_things_are(target, cwd=tmp_path, pth=True)
    assert package == source_tree / "recbole_diffusion"
    assert properties == source_tree / "properties"


def test_properties_are_found_in_a_raw_checkout(source_tree: Path, tmp_path: Path) -> None:
    package, properties = where_things_are(source_tree, cwd=tmp_path)
    assert package == source_tree / "recbole_diffusion"
    assert properties == source_tree / "properties"


def test_recbole_imports_without_the_packages_that_are_not_declared(tmp_path: Path) -> None:
    done = fresh_python(
        f"for name in {NOT_NEEDED_BY_THE_BASE!r}: sys.modules[name] = None\n"
        "from recbole_diffusion import compat, config, registry\n"
        "import recbole.config, recbole.data, recbole.trainer, recbole.utils, recbole.evaluator\n"
        "import recbole.model.general_recommender, recbole.model.sequential_recommender\n"
        "import recbole.model.context_aware_recommender, recbole.model.knowledge_aware_recommender\n"
        "print('imported', recbole.trainer.Trainer.__name__)",
        first=ROOT,
        cwd=tmp_path,
    )
    assert done.stdout.splitlines()[-1:] == ["imported Trainer"], done.stderr


@pytest.mark.parametrize("arguments", [["--model=DiffuRec", "--dataset=ml-100k"], ["evaluate", "--checkpoint=runs/a"]])
def test_without_recbole_one_line_says_how_to_install_it(arguments: Sequence[str], tmp_path: Path) -> None:
    without_recbole = (
        "class WithoutRecBole:\n"
        "    def __init__(self, finder): self.finder = finder\n"
        "    def __getattr__(self, name): return getattr(self.finder, name)\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        return None if name.split('.')[0] == 'recbole' else self.finder.find_spec(name, path, target)\n"
        "sys.meta_path[:] = [WithoutRecBole(finder) for finder in sys.meta_path]\n"
    )
    run_command = f"from recbole_diffusion.command_line import main\nsys.exit(main({list(arguments)!r}))"
    done = fresh_python(without_recbole + run_command, first=ROOT, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert "pip install --no-deps recbole==1.2.1" in line


def test_the_installed_command_is_the_package_s_main() -> None:
    scripts = [script for script in entry_points(group="console_scripts") if script.name == "recbole-diff"]
    if not scripts:
        pytest.skip("recbole-diffusion is not installed here, the tests run from a raw checkout")
    from recbole_diffusion.command_line import main

    assert scripts[0].load() is main


@pytest.mark.parametrize("path", sorted((ROOT / "requirements").glob("python*.txt")), ids=lambda path: path.name)
def test_proven_versions_lie_in_the_declared_ranges(path: Path) -> None:
    lines = [line for line in path.read_text().splitlines() if line.strip() and not line.startswith("#")]
    proven = {canonicalize_name(name): version for name, version in (line.split("==") for line in lines)}
    declarations = configparser.ConfigParser()
    declarations.read(ROOT / "setup.cfg")
    declared = [declarations["options"]["install_requires"], *declarations["options.extras_require"].values()]
    requirements = [
        Requirement(line) for block in declared for line in block.splitlines() if line and not line.startswith("#")
    ]
    # torch is the Makefile's TORCH; an extra that names this package only gathers others
    outside = {"torch", "recbole-diffusion"}
    required = {canonicalize_name(requirement.name) for requirement in requirements} - outside
    assert required <= proven.keys(), f"not in {path.name}: {sorted(required - proven.keys())}"
    for requirement in requirements:
        name = canonicalize_name(requirement.name)
        if name not in outside:
            assert requirement.specifier.contains(proven[name]), f"{name}=={proven[name]} is not {requirement}"
