"""What is wrong with Ray is one line; what is set for it is set back."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from recbole_diffusion import ray_session
from recbole_diffusion.errors import UserError
from recbole_diffusion.ray_session import OLDEST, import_ray, ray_running

ROOT = Path(__file__).resolve().parents[1]


class FakeRay(types.ModuleType):
    """A `ray` that starts as it is told to."""

    def __init__(self, version: str = OLDEST, errors: tuple[Exception, ...] = ()) -> None:
        super().__init__("ray")
        self.__version__ = version
        self.errors = list(errors)
        self.calls: list[dict[str, Any]] = []
        self.seen: list[dict[str, str]] = []
        self.running = False

    def is_initialized(self) -> bool:
        return self.running

    def init(self, **options: Any) -> None:
        self.calls.append(options)
        self.seen.append(dict(os.environ))
        if self.errors:
            raise self.errors.pop(0)
        self.running = True

    def shutdown(self) -> None:
        self.running = False

    def get_runtime_context(self) -> Any:
        return types.SimpleNamespace(gcs_address="10.0.0.1:6379")


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> FakeRay:
    fake = FakeRay()
    monkeypatch.setitem(sys.modules, "ray", fake)
    return fake


def test_the_oldest_version_is_that_of_the_extra() -> None:
    assert f"ray[data,train,tune]>={OLDEST}" in (ROOT / "setup.cfg").read_text(encoding="utf-8")


def test_no_ray_and_one_without_a_library_name_the_extra(monkeypatch: pytest.MonkeyPatch, ray: FakeRay) -> None:
    monkeypatch.setitem(sys.modules, "ray.tune", None)
    with pytest.raises(UserError, match=r"a sweep needs Ray.*ray.tune.*pip install 'recbole-diffusion\[tune\]'"):
        import_ray("a sweep", "ray.tune", extra="tune")
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"num_workers needs Ray.*pip install 'recbole-diffusion\[ray\]'") as caught:
        import_ray("num_workers", "ray.train")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("version", "fits"), [("2.9.3", False), ("2.100.0", True), (f"{OLDEST}.0rc1", True)])
def test_a_ray_that_is_too_old_is_refused(ray: FakeRay, version: str, fits: bool) -> None:
    ray.__version__ = version
    if fits:
        assert import_ray("recommend") is ray
        return
    with pytest.raises(UserError, match=f"recommend needs ray {OLDEST} or later, and 2.9.3 is here; pip install"):
        import_ray("recommend")


def test_what_is_started_here_ends_here_and_variables_are_as_before(
    ray: FakeRay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OF_THE_USER", "theirs")
    monkeypatch.setenv("PYTHONPATH", "/before")
    before = dict(os.environ)
    given = {"RAY_OF_OURS": "0", "OF_THE_USER": "ours"}
    with ray_running(environment=given, search_path=["/mine"], num_cpus=3, temp_dir="/tmp/x"):
        assert ray.running and os.environ["RAY_OF_OURS"] == "0"
    assert not ray.running
    (call,) = ray.calls
    assert (call["address"], call["num_cpus"], call["_temp_dir"]) == ("local", 3, "/tmp/x")
    assert "object_store_memory" not in call
    assert ray.seen[0]["PYTHONPATH"] == f"/mine{os.pathsep}/before" and ray.seen[0]["OF_THE_USER"] == "theirs"
    assert {name: os.environ.get(name) for name in before} == before and "RAY_OF_OURS" not in os.environ


def test_a_cluster_gets_the_users_modules_and_none_of_this_machines_options(
    ray: FakeRay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with ray_running("auto", modules=["/mine/model.py"], search_path=["/mine"], num_cpus=3):
        assert ray.running
    (call,) = ray.calls
    assert call["address"] == "auto" and "num_cpus" not in call
    assert call["runtime_env"]["py_modules"] == ["/mine/model.py"]
    assert call["runtime_env"]["env_vars"]["PYTHONPATH"].split(os.pathsep)[0] == "/mine"


def test_what_runs_already_is_used_and_left_running(ray: FakeRay) -> None:
    ray.running = True
    for address in (None, "auto", "10.0.0.1:6379"):
        with ray_running(address):
            pass
    assert ray.running and not ray.calls
    with (
        pytest.raises(UserError, match=r"ray_address is 10.0.0.2:1, but this process belongs to the Ray at 10.0.0.1"),
        ray_running("10.0.0.2:1"),
    ):
        pass


def test_a_busy_machine_gets_more_time_and_then_one_line(ray: FakeRay) -> None:
    slow = Exception("The current node timed out during startup.")
    ray.errors = [slow] * (ray_session.STARTS - 1)
    with ray_running():
        assert len(ray.calls) == ray_session.STARTS
    ray.errors = [slow] * ray_session.STARTS
    with pytest.raises(UserError, match="try again when the machine is less busy"), ray_running():
        pass
    ray.errors = [ValueError("a bug")]
    with pytest.raises(ValueError, match="a bug"), ray_running():
        pass


@pytest.fixture
def listening() -> Iterator[int]:
    """A port of this machine that takes connections."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_what_answers_and_is_no_cluster_is_one_line(ray: FakeRay, listening: int) -> None:
    ray.errors = [ConnectionError("Could not find any running Ray instance.\nPlease ...")]
    address = f"127.0.0.1:{listening}"
    with pytest.raises(UserError) as caught, ray_running(address):
        pass
    assert str(caught.value) == f"no Ray cluster at ray_address {address}: Could not find any running Ray instance."


@pytest.mark.parametrize("form", ["127.0.0.1:{}", "localhost:{}", "ray://127.0.0.1:{}"])
def test_what_answers_is_joined_and_what_does_not_is_one_line(
    ray: FakeRay, listening: int, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ray_running(form.format(listening)):
        assert ray.running
    with socket.create_server(("127.0.0.1", 0)) as server:
        closed = form.format(server.getsockname()[1])
    line = rf"^no Ray cluster at ray_address {closed}: nothing answers there \(Connection refused\); give the address"
    with pytest.raises(UserError, match=line), ray_running(closed):
        pass
    monkeypatch.setenv("RAY_ADDRESS", closed)
    with pytest.raises(UserError, match=rf"at ray_address auto \(RAY_ADDRESS is {closed}\): "), ray_running("auto"):
        pass
    assert [call["address"] for call in ray.calls] == [form.format(listening)]


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (TimeoutError("timed out"), "timed out"),
        (socket.gaierror(-2, "Name or service not known"), "Name or service not known"),
        (UnicodeError("label too long"), "label too long"),
    ],
)
def test_a_machine_that_is_silent_or_unknown_is_one_line(
    ray: FakeRay, monkeypatch: pytest.MonkeyPatch, error: Exception, why: str
) -> None:
    asked: list[Any] = []

    def unreachable(place: Any, timeout: float) -> Any:
        asked.append((place, timeout))
        raise error

    monkeypatch.setattr(socket, "create_connection", unreachable)
    with pytest.raises(UserError, match=rf"ray_address \[::1\]:6379: nothing answers there \({why}\)"):
        ray_running("[::1]:6379").__enter__()
    assert asked == [(("::1", 6379), ray_session.ANSWER_SECONDS)] and ray_session.ANSWER_SECONDS <= 10
    assert not ray.calls


@pytest.mark.parametrize("address", ["head", "head:", "head:port", "head:70000", "ray://head", ":6379", "[::1"])
def test_what_is_no_address_is_one_line(ray: FakeRay, address: str) -> None:
    with pytest.raises(UserError, match=f"ray_address {re.escape(address)} is no address; give auto, HOST:PORT or"):
        ray_running(address).__enter__()
    assert not ray.calls


@pytest.mark.parametrize("address", ["auto", "local", "provider://cluster"])
def test_what_ray_looks_up_itself_is_left_to_it(ray: FakeRay, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with ray_running(address):
        assert ray.calls[0]["address"] == address


def test_only_one_module_starts_ray() -> None:
    """Whoever needs Ray takes it from `ray_session`."""
    found = subprocess.run(
        ["grep", "-rlE", r"ray\.(init|shutdown)\(", "--include=*.py", "recbole_diffusion", "tests", "benchmarks"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    names = [name for name in found.stdout.split() if not name.startswith("tests")]
    assert names == ["recbole_diffusion/ray_session.py"]
