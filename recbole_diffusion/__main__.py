"""``python -m recbole_diffusion``: the command line."""

from __future__ import annotations

from recbole_diffusion.command_line import main

if __name__ == "__main__":
    raise SystemExit(main())
