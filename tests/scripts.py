"""Runs the scripts of the project as a user does, but in this process: a new one has to import torch."""

import runpy
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def run(script, *flags):
    """Run a script in the working directory; its exit code."""
    arguments, sys.argv = sys.argv, [script, *flags]
    try:
        runpy.run_path(str(ROOT / script), run_name="__main__")
    except SystemExit as end:
        return end.code
    finally:
        sys.argv = arguments
