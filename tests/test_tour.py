"""The notebook iia_tour.ipynb: what it keeps, and that it runs from its first cell to its last."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).resolve().parents[1] / "iia_tour.ipynb"


def test_the_notebook_keeps_its_outputs_and_is_small():
    cells = [cell for cell in json.loads(NOTEBOOK.read_text())["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    kinds = [output.get("name", output["output_type"]) for cell in cells for output in cell["outputs"]]
    assert set(kinds) == {"stdout", "display_data"} and kinds.count("display_data") == 5
    assert NOTEBOOK.stat().st_size < 400_000


def test_the_notebook_runs():
    pytest.importorskip("nbmake")
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--nbmake", "--nbmake-timeout=300"]
    done = subprocess.run([*command, NOTEBOOK], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert "1 passed" in done.stdout
