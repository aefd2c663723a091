"""An entry of the cache is found complete and unaltered or not at all, whatever happens to the process or the disk."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from recbole_diffusion.data import cache, progress

KEY = "a" * 64
ARRAYS = {
    "item_id": np.arange(1000, dtype=np.uint16),
    "offsets": np.array([0, 3, 3, 1000], dtype=np.int64),
    "tokens": np.array(["[PAD]", "naïve-商品-🎬", "", "i1"]),
    "nothing": np.zeros((0, 3), dtype=np.float32),
    "one": np.array(2.5),
    "by column": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "every other": np.arange(10)[::2],
    "flags": np.array([True, False]),
    "big endian": np.arange(3, dtype=">i4"),
    "days": np.array(["2014-07-21", "NaT"], dtype="datetime64[s]"),
}
FACTS = {"rows": 1000, "shape": (2, 3), "name": "naïve", "none": None, "inf": float("inf"), "deep": {"10": 1, "9": [2]}}

posix = pytest.mark.skipif(os.name != "posix", reason="signals and limits of POSIX")


def in_child(code: str, *arguments: str) -> subprocess.Popen[str]:
    """A Python process that has `cache`, `np`, `sys`, `Path` at hand."""
    opening = "import os, sys, time\nfrom pathlib import Path\nimport numpy as np\n"
    opening += "from recbole_diffusion.data import cache\n"
    return subprocess.Popen(
        [sys.executable, "-c", opening + textwrap.dedent(code), *arguments],
        cwd=Path(__file__).resolve().parents[2],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_what_is_stored_comes_back(tmp_path: Path) -> None:
    folder = tmp_path / "made" / "when needed"
    assert cache.load(folder, KEY) is None
    assert cache.store(folder, KEY, ARRAYS, FACTS) == folder / KEY
    entry = cache.load(folder, KEY)
    assert entry is not None
    assert list(entry.arrays) == list(ARRAYS)
    for name, array in ARRAYS.items():
        found = entry.arrays[name]
        assert (found.dtype, found.shape) == (array.dtype, array.shape), name
        np.testing.assert_array_equal(found, array)
        assert not found.flags.writeable
        assert isinstance(found, np.memmap) == (array.size > 0)
    assert entry.facts == {**FACTS, "shape": [2, 3]}
    assert os.listdir(folder) == [KEY]


def test_nothing_to_keep_is_kept(tmp_path: Path) -> None:
    cache.store(tmp_path, KEY, {}, {})
    assert cache.load(tmp_path, KEY) == cache.Entry({}, {})


def test_keys_of_facts_become_text_and_stay_verifiable(tmp_path: Path) -> None:
    """Sorted as numbers 9 comes before 10, as text after it: the checksum must not depend on that."""
    cache.store(tmp_path, KEY, {}, {"lengths": {9: "a", 10: "b"}})
    entry = cache.load(tmp_path, KEY)
    assert entry is not None
    assert entry.facts == {"lengths": {"9": "a", "10": "b"}}


@pytest.mark.parametrize(
    "array", [np.array(["a", None], dtype=object), np.zeros(2, dtype=[("a", "i4")]), np.array([b"x"]).astype("V3")]
)
def test_arrays_that_are_more_than_bytes_are_refused(tmp_path: Path, array: np.ndarray) -> None:
    with pytest.raises(TypeError, match="'x' is"):
        cache.store(tmp_path / "cache", KEY, {"x": array}, {})
    assert not (tmp_path / "cache").exists()


def test_facts_that_json_cannot_hold_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="not JSON serializable"):
        cache.store(tmp_path / "cache", KEY, {}, {"x": np.zeros(2)})
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("key", ["", "../x", "A" * 64, "a" * 63, "a" * 64 + "\n"])
def test_a_key_is_never_a_path(tmp_path: Path, key: str) -> None:
    with pytest.raises(ValueError, match="64 hexadecimal digits"):
        cache.load(tmp_path, key)
    with pytest.raises(ValueError, match="64 hexadecimal digits"):
        cache.store(tmp_path, key, {}, {})


# ------------------------------------------------------------------------------------------------------------- keys


def test_key_by_hand(tmp_path: Path) -> None:
    path = tmp_path / "x.inter"
    path.write_bytes(b"abc")
    abc = hashlib.sha256(b"abc").hexdigest()
    text = f'{{"files":[["x.inter","{abc}"]],"format":1,"settings":{{"a":[1,2],"b":null}}}}'
    assert cache.cache_key([path], {"b": None, "a": (1, 2)}) == hashlib.sha256(text.encode()).hexdigest()


def test_key_follows_contents_settings_and_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = tmp_path / "x.inter", tmp_path / "x.item"
    one.write_bytes(b"abc")
    two.write_bytes(b"def")
    settings = {"length": 50, "filters": {"user": "[5,inf)"}}
    key = cache.cache_key([one, two], settings)
    os.utime(one, (0, 0))
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    (moved / "x.inter").write_bytes(b"abc")
    assert cache.cache_key([moved / "x.inter", two], dict(reversed(settings.items()))) == key
    others = [
        cache.cache_key([two, one], settings),
        cache.cache_key([one], settings),
        cache.cache_key([one, two], {**settings, "length": 51}),
        cache.cache_key([one, two], {**settings, "length": "50"}),
        cache.cache_key([one, two], {**settings, "length": 50.0}),
        cache.cache_key([one, two], {**settings, "more": None}),
    ]
    one.write_bytes(b"abd")
    others.append(cache.cache_key([one, two], settings))
    one.write_bytes(b"abcd")  # where one file ends and the next begins is part of it
    two.write_bytes(b"ef")
    others.append(cache.cache_key([one, two], settings))
    one.write_bytes(b"abc")
    two.write_bytes(b"def")
    monkeypatch.setattr(cache, "FORMAT_VERSION", cache.FORMAT_VERSION + 1)
    others.append(cache.cache_key([one, two], settings))
    assert len({key, *others}) == 1 + len(others)


def test_key_needs_its_files_and_json_settings(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        cache.cache_key([tmp_path / "absent"], {})
    with pytest.raises(TypeError, match="not JSON serializable"):
        cache.cache_key([], {"path": tmp_path})


def test_an_entry_of_another_format_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.store(tmp_path, KEY, ARRAYS, FACTS)
    monkeypatch.setattr(cache, "FORMAT_VERSION", cache.FORMAT_VERSION + 1)
    assert cache.load(tmp_path, KEY) is None
    assert os.listdir(tmp_path) == []


def test_default_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    at_home = tmp_path / ".cache" / "recbole_diffusion"
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache.default_folder() == at_home
    monkeypatch.setenv("XDG_CACHE_HOME", "relative/is/ignored")
    assert cache.default_folder() == at_home
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other"))
    assert cache.default_folder() == tmp_path / "other" / "recbole_diffusion"


# ----------------------------------------------------------------------------------------------------------- damage


def flipped(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


def shortened(path: Path, size: int) -> None:
    os.truncate(path, size)


def forged(path: Path) -> None:
    """The facts altered, everything else as it was."""
    path.write_text(path.read_text().replace('"rows":1000', '"rows":1001'))


DAMAGE: dict[str, Callable[[Path], object]] = {
    "an array altered at its start": lambda place: flipped(place / "0.bin", 0),
    "an array altered at its end": lambda place: flipped(place / "0.bin", -1),
    "a text altered": lambda place: flipped(place / "2.bin", 30),
    "an array cut by one byte": lambda place: shortened(place / "0.bin", 1999),
    "an array of zero bytes": lambda place: shortened(place / "0.bin", 0),
    "an array with more bytes": lambda place: (place / "1.bin").write_bytes(bytes(64)),
    "zeros in the place of an array": lambda place: (place / "0.bin").write_bytes(bytes(2000)),
    "two arrays exchanged": lambda place: (
        (
            (place / "4.bin").rename(place / "x"),
            (place / "9.bin").rename(place / "4.bin"),
            (place / "x").rename(place / "9.bin"),
        )
    ),
    "an empty array that is not": lambda place: (place / "3.bin").write_bytes(b"1"),
    "an array missing": lambda place: (place / "0.bin").unlink(),
    "a folder for an array": lambda place: ((place / "0.bin").unlink(), (place / "0.bin").mkdir()),
    "no manifest": lambda place: (place / "entry.json").unlink(),
    "a manifest cut short": lambda place: shortened(place / "entry.json", 100),
    "an empty manifest": lambda place: shortened(place / "entry.json", 0),
    "a manifest that is a list": lambda place: (place / "entry.json").write_text("[]"),
    "a manifest that is binary": lambda place: (place / "entry.json").write_bytes(bytes(range(256))),
    "a manifest of brackets": lambda place: (place / "entry.json").write_text("[" * 100_000),
    "facts altered": lambda place: forged(place / "entry.json"),
    "an empty folder": lambda place: [path.unlink() for path in place.iterdir()],
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_found_named_and_removed(tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str) -> None:
    place = cache.store(tmp_path, KEY, ARRAYS, FACTS)
    assert place is not None
    DAMAGE[kind](place)
    assert cache.load(tmp_path, KEY) is None
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert f"{place}: the cached data is damaged (" in caplog.text
    assert os.listdir(tmp_path) == []
    cache.store(tmp_path, KEY, ARRAYS, FACTS)
    assert cache.load(tmp_path, KEY) is not None


def test_every_byte_of_the_manifest_counts(tmp_path: Path) -> None:
    """Whichever byte is altered: what is found is what was stored, or nothing."""
    place = cache.store(tmp_path, KEY, {"a": np.arange(3)}, {"b": [1, "x", 2.5]})
    assert place is not None
    content = (place / "entry.json").read_bytes()
    array = (place / "0.bin").read_bytes()
    refused = 0
    for position in range(len(content)):
        place.mkdir(exist_ok=True)
        (place / "0.bin").write_bytes(array)
        (place / "entry.json").write_bytes(content)
        flipped(place / "entry.json", position)
        entry = cache.load(tmp_path, KEY)
        refused += entry is None
        if entry is not None:
            assert entry.facts == {"b": [1, "x", 2.5]}
            assert entry.arrays["a"].tolist() == [0, 1, 2]
    assert refused > 0.9 * len(content)


def test_a_file_where_the_entry_should_be_is_replaced(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / KEY).write_text("?")
    assert cache.load(tmp_path, KEY) is None
    assert "is damaged" in caplog.text
    (tmp_path / KEY).write_text("?")
    assert cache.store(tmp_path, KEY, ARRAYS, FACTS) is not None
    assert cache.load(tmp_path, KEY) is not None


def test_storing_again_keeps_an_intact_entry_and_replaces_a_damaged_one(tmp_path: Path) -> None:
    place = cache.store(tmp_path, KEY, ARRAYS, FACTS)
    assert place is not None
    before = os.stat(place / "0.bin").st_ino
    assert cache.store(tmp_path, KEY, ARRAYS, FACTS) == place
    assert os.stat(place / "0.bin").st_ino == before
    flipped(place / "0.bin", 5)
    assert cache.store(tmp_path, KEY, ARRAYS, FACTS) == place
    entry = cache.load(tmp_path, KEY)
    assert entry is not None
    np.testing.assert_array_equal(entry.arrays["item_id"], ARRAYS["item_id"])
    assert os.listdir(tmp_path) == [KEY]


def test_what_is_mapped_outlives_its_entry(tmp_path: Path) -> None:
    cache.store(tmp_path, KEY, ARRAYS, FACTS)
    entry = cache.load(tmp_path, KEY)
    assert entry is not None
    flipped(tmp_path / KEY / "1.bin", 0)
    assert cache.load(tmp_path, KEY) is None
    np.testing.assert_array_equal(entry.arrays["item_id"], ARRAYS["item_id"])


# ------------------------------------------------------------------------------------------------- killed, two at once

STOPS = {
    "between two arrays": "os.fsync = stop",
    "before the manifest": "cache._canonical_json = lambda value: stop() if 'arrays' in value else b''",
    "before the last step": "os.rename = stop",
}


@posix
@pytest.mark.parametrize("moment", STOPS)
def test_a_killed_write_leaves_nothing_that_counts(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, moment: str
) -> None:
    code = """
        def stop(*arguments, **named):
            print("stopped", flush=True)
            time.sleep(600)
        PATCH
        arrays = {"a": np.arange(300_000), "b": np.arange(300_000)}
        cache.store(Path(sys.argv[1]), "a" * 64, arrays, {})
    """
    child = in_child(code.replace("PATCH", STOPS[moment]), str(tmp_path))
    assert child.stdout is not None
    try:
        assert child.stdout.readline() == "stopped\n"
        half = os.listdir(tmp_path)
        assert len(half) == 1
        assert half[0].startswith(".writing-")
        assert (tmp_path / half[0] / "0.bin").stat().st_size == 2_400_000
        assert cache.load(tmp_path, KEY) is None
        assert os.listdir(tmp_path) == half, "somebody is still writing this"
    finally:
        os.kill(child.pid, signal.SIGKILL)
        child.communicate()
    with caplog.at_level(logging.INFO):
        assert cache.load(tmp_path, KEY) is None
    assert f"{tmp_path / half[0]}: removing what an interrupted run left behind" in caplog.text
    assert os.listdir(tmp_path) == []
    assert cache.store(tmp_path, KEY, ARRAYS, FACTS) is not None
    assert cache.load(tmp_path, KEY) is not None


def test_leftovers_of_other_hosts_stay_for_a_day(tmp_path: Path) -> None:
    names = {
        "gone": f".writing-{cache._host()}-{2**22 + 1}-{'0' * 16}",  # above the largest process id of Linux
        "mine": f".writing-{cache._host()}-{os.getpid()}-{'1' * 16}",
        "theirs": f".writing-00000000-1-{'2' * 16}",
        "old": f".writing-00000000-1-{'3' * 16}",
        "somebody else's": ".writing-notes",
    }
    for name in names.values():
        (tmp_path / name).mkdir()
        (tmp_path / name / "0.bin").write_bytes(b"1")
    yesterday = time.time() - 25 * 3600
    os.utime(tmp_path / names["old"], (yesterday, yesterday))
    os.utime(tmp_path / names["somebody else's"], (yesterday, yesterday))
    cache.load(tmp_path, KEY)
    left = {kind for kind, name in names.items() if (tmp_path / name).exists()}
    gone = {"gone"} if os.name == "posix" else set()
    assert left == set(names) - {"old"} - gone


def test_writers_and_readers_at_once(tmp_path: Path) -> None:
    """Four processes store and remove the same entry while this one reads: it sees the whole entry or none."""
    code = """
        arrays = {"a": np.arange(50_000), "b": np.arange(50_000)[::-1]}
        for _ in range(25):
            assert cache.store(Path(sys.argv[1]), "a" * 64, arrays, {"rows": 50_000})
            try:
                cache._remove(Path(sys.argv[1], "a" * 64))
            except OSError:
                pass
    """
    children = [in_child(code, str(tmp_path)) for _ in range(4)]
    seen = 0
    while any(child.poll() is None for child in children):
        entry = cache.load(tmp_path, KEY)
        if entry is not None:
            seen += 1
            np.testing.assert_array_equal(entry.arrays["a"], np.arange(50_000))
            np.testing.assert_array_equal(entry.arrays["b"], np.arange(50_000)[::-1])
            assert entry.facts == {"rows": 50_000}
    for child in children:
        _, complaints = child.communicate()
        assert child.returncode == 0, complaints
        assert "damaged" not in complaints
    assert seen > 0
    assert [name for name in os.listdir(tmp_path) if name != KEY] == []


# ------------------------------------------------------------------------------------------------ where it cannot write


def test_a_folder_that_cannot_be_made_is_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    assert cache.load(tmp_path / "file" / "cache", KEY) is None
    assert cache.store(tmp_path / "file" / "cache", KEY, ARRAYS, FACTS) is None
    assert len(caplog.records) == 1
    assert "the cache cannot be written (cache: Not a directory); the run goes on without it" in caplog.text


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="permissions bind only users other than root")
def test_a_folder_without_permission_is_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tmp_path.chmod(0o500)
    try:
        assert cache.store(tmp_path, KEY, ARRAYS, FACTS) is None
    finally:
        tmp_path.chmod(0o700)
    assert len(caplog.records) == 1


@posix
def test_a_full_disk_is_one_warning_and_leaves_nothing(tmp_path: Path) -> None:
    """A limit on the size of files stands for the end of the disk: the second array does not fit."""
    code = """
        import resource
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        arrays = {"a": np.arange(1000), "b": np.arange(100_000)}
        print(cache.store(Path(sys.argv[1]), "a" * 64, arrays, {}), os.listdir(sys.argv[1]))
    """
    found, complaints = in_child(code, str(tmp_path)).communicate(timeout=60)
    assert found == "None []\n"
    assert complaints == f"{tmp_path}: the cache cannot be written (File too large); the run goes on without it\n"


def test_an_interrupted_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        cache.store(tmp_path, KEY, ARRAYS, FACTS)
    assert os.listdir(tmp_path) == []


def test_an_entry_that_cannot_be_removed_is_not_a_failed_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    place = cache.store(tmp_path, KEY, ARRAYS, FACTS)
    assert place is not None
    flipped(place / "0.bin", 0)

    def refused(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(cache, "_remove", refused)
    assert cache.load(tmp_path, KEY) is None
    assert "the cache cannot be used (Permission denied); the data is prepared again" in caplog.text
    assert cache.store(tmp_path, KEY, ARRAYS, FACTS) is None
    assert "a damaged entry is in the way" in caplog.text
    assert os.listdir(tmp_path) == [KEY]


def test_progress_is_shown_only_if_wanted_and_slow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "x.inter"
    path.write_bytes(bytes(1000))
    cache.store(tmp_path, KEY, ARRAYS, FACTS, show_progress=True)
    assert capfd.readouterr().err == "", "it takes no two seconds"
    monkeypatch.setattr(progress, "DELAY", 0)
    monkeypatch.setattr(cache, "_BLOCK_BYTES", 100)
    cache.cache_key([path], {})
    cache.load(tmp_path, KEY)
    cache.store(tmp_path, "b" * 64, ARRAYS, FACTS)
    assert capfd.readouterr().err == ""
    cache.cache_key([path], {}, show_progress=True)
    cache.load(tmp_path, KEY, show_progress=True)
    cache.store(tmp_path, "c" * 64, ARRAYS, FACTS, show_progress=True)
    shown = capfd.readouterr().err
    for what in ("Comparing files with the cache", "Checking the cache", "Writing the cache"):
        assert f"{what}: 100%" in shown


def test_the_manifest_is_plain_json(tmp_path: Path) -> None:
    place = cache.store(tmp_path, KEY, {"a": np.arange(3, dtype=np.int32)}, {"rows": 3})
    assert place is not None
    manifest = json.loads((place / "entry.json").read_text())
    assert manifest["content"] == {
        "format": 1,
        "facts": {"rows": 3},
        "arrays": [
            {
                "name": "a",
                "dtype": "<i4",
                "shape": [3],
                "bytes": 12,
                "sha256": hashlib.sha256(np.arange(3, dtype="<i4").tobytes()).hexdigest(),
            }
        ],
    }
