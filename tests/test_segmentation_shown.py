"""What a segmentation run shows of its pictures: panels and a page, on a small network."""


import numpy as np
import pytest
import torch
from PIL import Image

import iia
from iia import plots, segmentation_table
from iia.datasets.coco import Coco
from iia.settings import Settings

from .conftest import toy_vgg
from .pages import Parsed

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation")      # pycocotools under NumPy 2
OPERATIONS = ["iia-ablation-ac", "gradcam"]


@pytest.fixture
def model():
    """It predicts another class for each picture."""
    network = toy_vgg()
    made = iia.wrap(network, image_size=32)
    x = torch.stack([picture for picture, *_ in Coco("data/COCO", (0.5,) * 3, (0.5,) * 3, 32)])
    with torch.no_grad():
        logits = made(x)
        network.classifier[-1].weight /= logits.std(0)[:, None]
        network.classifier[-1].bias[:] = (network.classifier[-1].bias - logits.mean(0)) / logits.std(0)
    return iia.wrap(network, "toy", (0.5,) * 3, (0.5,) * 3, image_size=32, labels=list("abcdefg"))


def made(model, **more):
    how = dict(operations=OPERATIONS, dataset_root="data/COCO", definition="paper", device="cpu",
               batch_size=8, max_images=None, num_workers=0, results_dir="results", save_overlays=0,
               FEATURE_LAYER_NUMBER="last", INTERPOLATION_STEPS=1)
    return segmentation_table.tested(model, Settings(**how | more), "coco")


def test_a_panel_shows_the_prediction_the_maps_the_mask_and_what_is_called_object(coco, model, monkeypatch):
    panels = []
    monkeypatch.setattr(plots, "save_panel", lambda *panel: panels.append(panel))
    made(model, save_overlays=3)
    raw, (x, masks, names) = Coco(coco, size=32), zip(*Coco(coco, model.mean, model.std, 32))
    predicted = iia.predict(model, torch.stack(x)).tolist()
    assert len(set(predicted)) > 1 and len(panels) == 3
    for index, (path, title, tiles) in enumerate(panels):
        assert path.name == f"{names[index]}.png"
        label = "abcdefg"[predicted[index]]
        assert title == f"{label} ({predicted[index]}, predicted) · toy · coco {names[index]}"
        picture, shown = plots.rgb(raw[index][0]), {}
        for name in OPERATIONS:
            heat = iia.explain(model, x[index][None], predicted[index], name, steps=1)[0].numpy()
            shown[name] = plots.overlay(picture, heat)
            shown[f"{name} > its mean"] = picture * np.where(heat > heat.mean(), 1, 0.25)[..., None]
        shown["mask"] = picture * np.where(masks[index].numpy(), 1, 0.25)[..., None]
        order = ["picture", *OPERATIONS, "mask", *(f"{name} > its mean" for name in OPERATIONS)]
        assert list(tiles) == order
        np.testing.assert_allclose(tiles["picture"], picture, atol=1e-6)
        for name, wanted in shown.items():
            assert np.isclose(tiles[name], wanted, atol=1e-4).mean() > 0.98, name    # but for rounding


def test_the_page_has_the_best_pictures_by_f1_first_and_shows_them_raw(coco, model):
    summary = made(model)
    rows = (summary["folder"] / "per_image.csv").read_text().splitlines()
    head, *rows = (line.split(",") for line in rows)
    rows = [dict(zip(head, line)) for line in rows]
    page = Parsed(summary["folder"] / "index.html")
    for name in OPERATIONS:
        own = {row["id"]: 2 * int(row["tp"]) / (2 * int(row["tp"]) + int(row["fp"]) + int(row["fn"]))
               for row in rows if row["operation"] == name}
        order = sorted(own, key=own.get, reverse=True)
        wanted = " ".join(f"{picture} F1 {own[picture]:.4g}" for picture in order[:2])
        assert f"{name} best {wanted} worst {order[2]} F1 {own[order[2]]:.4g}" in page.text
    assert "3 pictures, in percent; 0 skipped, 0 degenerate maps" in page.text
    for index, (picture, *_) in enumerate(Coco(coco, size=32)):
        shown = np.asarray(Image.open(summary["folder"] / f"page/{index}.jpg")) / 255
        assert np.abs(shown - plots.rgb(picture)).mean() < 0.05              # not as the network reads it


def test_the_table_says_how_far_maps_are_from_their_limit_in_percent(coco, model, capsys):
    summary, data = made(model, INTERPOLATION_STEPS=2), Coco(coco, model.mean, model.std, 32)
    x = torch.stack([picture for picture, *_ in data])
    _, wanted = iia.explain(model, x, iia.predict(model, x), OPERATIONS[0], steps=2, return_error=True)
    distance = wanted.mean().item()
    assert summary["distance"] == {OPERATIONS[0]: pytest.approx(distance, abs=1e-4)}
    lines = capsys.readouterr().out.splitlines()
    head, own, other = (next(line.split() for line in lines if line.startswith(name))
                        for name in ("operation", *OPERATIONS))
    assert head[-1] == "distance" and len(other) == len(own) - 1 == len(head) - 1
    assert float(own[-1]) == pytest.approx(100 * distance, abs=0.02)
