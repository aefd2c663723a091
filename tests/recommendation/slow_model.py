"""A user's own model, in no package: SASRec that takes its time and says which processes it runs in."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from recbole.model.sequential_recommender.sasrec import SASRec


class SlowSASRec(SASRec):
    """With ``SLOW_MODEL_FOLDER`` in the environment, a batch takes a while and leaves a file named by its process."""

    def full_sort_predict(self, interaction: Any) -> Any:
        folder = os.environ.get("SLOW_MODEL_FOLDER")
        if folder and len(interaction) > 1:
            (Path(folder) / str(os.getpid())).touch()
            time.sleep(0.3)
        return super().full_sort_predict(interaction)
