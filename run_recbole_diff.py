"""The command line from a checkout: ``python run_recbole_diff.py --model=DiffuRec --dataset=ml-100k``."""

from __future__ import annotations

from recbole_diffusion.command_line import main

if __name__ == "__main__":
    raise SystemExit(main())
