"""A table of explanation tests of maps that were made elsewhere."""

import json
import os

import numpy as np
import pytest
import torch

from iia import explanation_table
from iia.datasets.pictures import load_pictures
from iia.evaluation.explanation_tests import score
from iia.evaluation.given_maps import read_maps
from tests.evaluation.explanation_runs import SIX, chosen, results, write_maps
from tests.evaluation.toys import Scrambles


def test_maps_made_elsewhere(place, capsys):
    """The table's figures are those of `score`; what cannot be used is named and counted."""
    write_maps(place)
    model = Scrambles()
    assert explanation_table.table(model, chosen(place)) == 1
    folder = results(place)
    said = capsys.readouterr()
    assert "broken.png" in said.err and "list.txt:3" in said.err
    files = {path.name for path in folder.iterdir()}
    assert files == {".claims", "batches", "page", "index.html", "per_image.csv", "summary.json",
                     "settings.json", "curves.npz", "curves.png"}

    summary = json.loads((folder / "summary.json").read_text())
    assert summary["pictures"] == 5 and summary["skipped"]["count"] == 2
    assert summary["degenerate"] == {"random": 0, "mine": 0}
    pictures = load_pictures([place / f"p{i}.png" for i in range(5)], model)
    targets = torch.tensor([0, 1, 2, 3, 0])
    maps = torch.stack([torch.from_numpy(np.load(place / "maps" / f"p{i}_mine_toy.npy")) for i in range(5)])
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    maps = (maps - low) / (high - low)
    expected, curves = score(model, pictures, targets, maps, SIX)
    for name in SIX:
        assert summary["figures"]["mine"][name] == pytest.approx(expected[name].mean().item(), abs=1e-4)
        low, high = summary["intervals"]["mine"][name]
        assert low <= summary["figures"]["mine"][name] <= high
    right = (model(pictures).argmax(1) == targets).float().mean().item()
    assert summary["base accuracy"] == pytest.approx(right)
    saved = np.load(folder / "curves.npz")
    assert np.allclose(saved["mine DEL"], curves["DEL"].mean(0), atol=1e-6) and saved["x DEL"][-1] == 0.9
    table = said.out.splitlines()
    assert all(name in table[0] for name in ("POS↓", "NEG↑", "DEL↓", "INS↑", "ADP↓", "PIC↑"))
    own = next(line for line in table if line.startswith("mine"))
    assert f"{summary['figures']['mine']['DEL']:.2f}" in own
    assert "2 skipped" in said.out and "5 pictures" in said.out


def test_missing_misshapen_and_constant_maps(place, capsys):
    write_maps(place, ["p0", "p1", "p2", "p3"])
    np.save(place / "maps" / "p1_mine_toy.npy", np.zeros((7, 7)))
    np.save(place / "maps" / "p2_mine_toy.npy", np.full((16, 16), 3.0))
    (place / "maps" / "p3_mine_toy.npy").write_bytes(b"")
    assert explanation_table.table(Scrambles(), chosen(place)) == 1
    said = capsys.readouterr()
    for what in ("p1_mine_toy.npy holds no map (it is [7, 7], not [16, 16])", "p3_mine_toy.npy holds no map",
                 "p4_mine_toy.npy is missing"):
        assert what in said.err, what
    summary = json.loads((results(place) / "summary.json").read_text())
    assert summary["counts"]["mine"]["POS"] == 2 and summary["counts"]["random"]["POS"] == 5
    assert summary["degenerate"] == {"random": 0, "mine": 1} and "1 degenerate" in said.out

    write_maps(place)                           # better ones: the old figures do not stand for them
    explanation_table.table(Scrambles(), chosen(place))
    assert len(list((place / "results").iterdir())) == 2
    summary = json.loads((results(place) / "summary.json").read_text())
    assert summary["counts"]["mine"]["POS"] == 5


def test_maps_of_no_picture_in_common(place, capsys):
    write_maps(place, ["p0", "p1"])
    for name in ("p2", "p3"):
        (place / "maps" / "p0_mine_toy.npy").with_name(f"{name}_other_toy.npy").write_bytes(
            (place / "maps" / "p0_mine_toy.npy").read_bytes())
    (place / "maps" / "p4_other_toy.npy").write_bytes(b"PK no archive")
    assert explanation_table.table(Scrambles(), chosen(place, operations=["mine", "other"])) == 1
    said = capsys.readouterr()
    assert "other" in said.out and "p4_other_toy.npy holds no map" in said.err


@pytest.mark.parametrize("values, said", [
    ([[np.nan]], "not all of its numbers are finite"), ([[np.inf]], "not all of its numbers are finite"),
    ([[1j]], "it is of complex128, no real numbers"), ([["one"]], "it is of <U3, no real numbers")])
def test_maps_that_are_no_real_numbers_are_skipped_and_named(place, capsys, values, said):
    write_maps(place)
    saliency = np.array(np.broadcast_to(values, (16, 16)))
    if saliency.dtype == float:
        saliency = np.where(np.arange(256).reshape(16, 16) == 7, saliency,
                            np.random.default_rng(0).random((16, 16)))
    np.save(place / "maps" / "p2_mine_toy.npy", saliency)
    assert explanation_table.table(Scrambles(), chosen(place)) == 1
    assert f"p2_mine_toy.npy holds no map ({said})" in capsys.readouterr().err
    summary = json.loads((results(place) / "summary.json").read_text())
    assert summary["counts"]["mine"]["POS"] == 4 and summary["degenerate"]["mine"] == 0
    assert len(summary["skipped"]["reasons"]) == 3


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes")
def test_a_pipe_among_the_maps_is_skipped_and_waited_for_by_nobody(place, capsys):
    write_maps(place)
    (place / "maps" / "p2_mine_toy.npy").unlink()
    os.mkfifo(place / "maps" / "p2_mine_toy.npy")
    assert explanation_table.table(Scrambles(), chosen(place)) == 1
    assert "p2_mine_toy.npy holds no map (it is no file)" in capsys.readouterr().err


@pytest.mark.parametrize("kind", [np.uint8, np.int64, np.float16, np.float64, bool])
def test_maps_of_any_real_numbers_are_read_and_scaled(place, kind):
    values = np.arange(256).reshape(16, 16) % 2
    np.save(place / "maps" / "p0_mine_toy.npy", values.astype(kind))
    maps, skipped = read_maps(place / "maps", "mine", "toy", torch.zeros(1, 3, 16, 16), ["p0"])
    assert skipped == {} and maps[0].tolist() == values.tolist()
