"""The notebook iia_tour.ipynb: what it keeps, and that it runs from its first cell to its last."""

import json
from multiprocessing import get_context
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).resolve().parents[1] / "iia_tour.ipynb"
CELLS = [cell for cell in json.loads(NOTEBOOK.read_text())["cells"] if cell["cell_type"] == "code"]


def test_the_notebook_keeps_its_outputs_and_is_small():
    assert [cell["execution_count"] for cell in CELLS] == list(range(1, len(CELLS) + 1))
    kinds = [output.get("name", output["output_type"]) for cell in CELLS for output in cell["outputs"]]
    assert set(kinds) == {"stdout", "display_data"} and kinds.count("display_data") == 5
    assert NOTEBOOK.stat().st_size < 400_000


def run_cells():
    """In a shell as the notebook's kernel has it, with figures among the cells."""
    from IPython.core.interactiveshell import InteractiveShell

    class Shell(InteractiveShell):
        def enable_gui(self, gui=None):
            """There are no windows."""

    shell = Shell.instance()
    shell.enable_matplotlib("inline")
    for cell in CELLS:
        shell.run_cell("".join(cell["source"])).raise_error()


def test_the_notebook_runs(own_folder, monkeypatch):
    """In a forked process, which has torch already and keeps the shell to itself."""
    pytest.importorskip("IPython")
    monkeypatch.setenv("IPYTHONDIR", str(own_folder))
    process = get_context("fork").Process(target=run_cells)
    process.start()
    process.join(300)
    code = process.exitcode
    process.kill()
    assert code == 0
