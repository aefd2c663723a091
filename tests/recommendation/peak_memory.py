"""What `recommend` holds at most, one file of users after the other; in a process of its own, on Linux.

    python -m tests.recommendation.peak_memory RUN_FOLDER FOLDER NAME [NAME ...]

FOLDER/NAME.parquet are the users. Prints the peaks so far after each file as JSON, in MiB:

    command   the process that was started: it reads the users and joins the lists
    actor     an actor of Ray Data
    store     Ray's object store: the pages of shared memory that were ever written to
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from recbole_diffusion.ray_session import ray_running
from recbole_diffusion.recommendation import batch, history_files, parts
from tests.leftovers import processes_of

PART = 500  # users


def resident_peak() -> float:
    """MiB that this process has held at a time."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("/proc/self/status has no VmHWM")


def stored_peak() -> float:
    """MiB of shared memory that Ray's store has taken of this machine; what it took it keeps."""
    (daemon,) = [process for process, name in processes_of(os.getsid(0)).items() if name == "raylet"]
    files = {}
    for link in Path(f"/proc/{daemon}/fd").iterdir():
        if "plasma" in os.readlink(link):
            found = link.stat()
            files[found.st_dev, found.st_ino] = found.st_blocks * 512
    assert files, "Ray's store is not where it was looked for"
    return sum(files.values()) / 2**20


class Measured(batch.PartRecommender):
    """An actor that leaves its peak in a file."""

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        made = super().__call__(batch)
        (self.folder.output.parent / f"{os.getpid()}.actor").write_text(str(resident_peak()), encoding="ascii")
        return made


def main() -> None:
    """Recommend to each file's users."""
    run, place, *names = sys.argv[1:]
    folder = Path(place)
    batch.PartRecommender = Measured
    parts.ROW_GROUP, history_files.ROWS = 2 * PART, 16 * PART
    peaks = []
    with ray_running(num_cpus=2, object_store_memory=200 * 2**20):
        for name in names:
            batch.recommend_file(
                run,
                folder / f"{name}.parquet",
                folder / f"{name}.lists.parquet",
                top_k=5,
                part_size=PART,
                num_actors=1,
                show_progress=False,
            )
            actors = [float(path.read_text(encoding="ascii")) for path in folder.glob("*.actor")]
            peaks.append({"command": resident_peak(), "actor": max(actors), "store": stored_peak()})
    sys.stdout.write(json.dumps(peaks) + "\n")


if __name__ == "__main__":
    main()
