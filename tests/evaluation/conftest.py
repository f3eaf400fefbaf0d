"""Fixtures of the tables' tests."""

import numpy as np
import pytest
from PIL import Image

from tests.evaluation.runs_of_numbers import evaluate, files, whole


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory):
    """The files of the run of numbers that nothing has disturbed."""
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    evaluate(folder)
    return files(whole(folder))


@pytest.fixture
def place(tmp_path):
    """Five pictures of noise with their list; line 3 is no picture, line 5 a broken one."""
    g = np.random.default_rng(0)
    for i in range(5):
        Image.fromarray(g.integers(256, size=(20, 20, 3), dtype=np.uint8)).save(tmp_path / f"p{i}.png")
    (tmp_path / "broken.png").write_text("nothing")
    lines = "p0.png 0", "p1.png 1", "nothing", "p2.png 2", "broken.png 1", "p3.png 3", "p4.png 0"
    (tmp_path / "list.txt").write_text("\n".join(lines) + "\n")
    (tmp_path / "maps").mkdir()
    return tmp_path
