"""The command line with a Ray that may take its time to start: Ray gives its own processes half a minute, which a busy
machine may not have. Run as a script, it is ``recbole-diff``.
"""

from __future__ import annotations

import sys
import time
from typing import Any

PATIENCE = 300.0


def patient_start() -> None:
    """Let Ray wait longer for its node."""
    from ray._private import services

    ask = services.get_node
    if getattr(ask, "patient", False):
        return

    def get_node(*arguments: Any, **named: Any) -> Any:
        until = time.monotonic() + PATIENCE
        while True:
            try:
                return ask(*arguments, **named)
            except RuntimeError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.2)

    vars(get_node)["patient"] = True
    services.get_node = get_node


if __name__ == "__main__":
    patient_start()
    from recbole_diffusion.command_line import main

    sys.exit(main())
