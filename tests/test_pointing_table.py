"""The table of the pointing game as a user runs it: which classes are explained, what counts."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import iia
from iia import pointing_table
from iia.datasets.boxes import CocoBoxes, VocBoxes
from iia.datasets.wordnet import imagenet_classes
from iia.errors import UserError
from iia.evaluation.pointing import inside, near
from iia.settings import Settings
from tests.box_trees import coco_boxes, voc_boxes
from tests.conftest import random_weights, toy_vgg
from tests.scripts import run

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation")      # pycocotools under NumPy 2
OBJECTS = [[("dog", 1, 1, 20, 20), ("dog", 40, 21, 60, 40), ("cat", 5, 5, 50, 30), ("person", 1, 1, 60, 40)],
           [("person", 3, 3, 20, 60), ("pottedplant", 30, 1, 48, 66)],
           [],
           [("dog", 1, 1, 33, 71)],
           [("unicorn", 1, 1, 33, 40)]]


def network():
    """A small network with ImageNet's classes."""
    made = toy_vgg()
    made.classifier[2] = nn.Linear(9, 1000)
    return iia.wrap(random_weights(made), name="toy", image_size=16)


def chosen(root, **more):
    values = dict(operations=["gradcam", "iia"], chosen_dataset="voc", dataset_root=str(root),
                  definition="paper", device="cpu", batch_size=4, max_images=None, num_workers=0,
                  results_dir=str(root / "results"), FEATURE_LAYER_NUMBER="last", INTERPOLATION_STEPS=2)
    return Settings(**values | more)


def result(root):
    folder = max((root / "results").rglob("summary.json"), key=lambda path: path.stat().st_mtime_ns).parent
    return json.loads((folder / "summary.json").read_text()), pd.read_csv(folder / "per_image.csv")


def test_voc(tmp_path, capsys):
    model = network()
    assert pointing_table.table(model, chosen(voc_boxes(tmp_path, OBJECTS))) == 1
    said, (summary, rows) = capsys.readouterr(), result(tmp_path)
    assert "2008_000002: the picture has no box" in said.err and "'unicorn' is unknown" in said.err
    assert summary["pictures"] == 3 and summary["pairs"] == 4 and summary["skipped"]["count"] == 2
    assert summary["pictures by rule"] == {"category": 2, "predicted": 1}
    data = VocBoxes(tmp_path, model.mean, model.std, 16)
    shown = [("dog", 0), ("cat", 0), ("any box", 1), ("dog", 3)]
    used = rows[rows["skipped"].isna()]
    assert sorted(zip(used["category"], used["index"])) == sorted(shown * 3)
    for category, index in shown:
        picture, size, _ = data[index]
        logits = model(picture[None])[0]
        classes = list(imagenet_classes(category)) if category != "any box" else list(range(1000))
        explained = max(classes, key=lambda number: logits[number])
        boxes = [box for name, box in data.boxes(index) if category in (name, "any box")]
        mask = inside(boxes, size.tolist(), (16, 16))
        for name in ("gradcam", "iia"):
            saliency = iia.explain(model, picture[None], [explained], name, steps=2)[0].double().numpy()
            peak = np.unravel_index(saliency.argmax(), saliency.shape)
            energy = saliency[mask].sum() / saliency.sum()
            own, = used[(used["operation"] == name) & (used["category"] == category)
                        & (used["index"] == index)].to_dict("records")
            assert own["explained"] == explained and own["energy"] == pytest.approx(energy, abs=1e-4)
            assert (own["hit"], own["hit_15"]) == (mask[peak], near(mask)[peak])
        own, = used[(used["operation"] == "chance") & (used["category"] == category)
                    & (used["index"] == index)].to_dict("records")
        assert own["hit"] == own["energy"] == mask.mean() and own["hit_15"] == near(mask).mean()
    for name in ("gradcam", "iia", "chance"):
        own, figures = used[used["operation"] == name], summary["figures"][name]
        assert figures["energy pairs"] == pytest.approx(own["energy"].mean())
        by_category = {category: own["energy"][own["category"] == category].mean()
                       for category in ("dog", "cat")}
        assert figures["energy categories"] == pytest.approx(np.mean(list(by_category.values())))
        assert summary["by category"][name]["dog"]["energy"] == pytest.approx(by_category["dog"])
        low, high = summary["intervals"][name]["energy pairs"]
        assert low <= figures["energy pairs"] <= high
        assert f"{100 * figures['hit_15 pairs']:.1f} [" in said.out
    assert "3 pictures, 4 pairs" in said.out
    assert "2 pictures by their categories' classes, 1 by the" in said.out


def test_coco_goes_on_where_it_was(tmp_path, capsys, monkeypatch):
    root = coco_boxes(tmp_path, [[(18, [0, 0, 30, 30]), (25, [0, 0, 9, 9])],
                                 [(3, [5, 5, 20, 20])], [(25, [1, 1, 9, 9])]])
    asked = []
    boxes = CocoBoxes.boxes
    monkeypatch.setattr(CocoBoxes, "boxes", lambda self, index: asked.append(index) or boxes(self, index))
    for _ in range(2):
        how = chosen(root, chosen_dataset="coco", operations=["gradcam"])
        assert pointing_table.table(network(), how) == 0
    assert sorted(asked) == [0, 0, 1, 1, 2, 2]                               # once to read, once to score
    summary, rows = result(root)
    assert summary["pictures by rule"] == {"category": 2, "predicted": 1}
    assert rows[rows["operation"] == "gradcam"]["category"].tolist() == ["dog", "car", "any box"]


def test_other_boxes_of_the_same_pictures_are_another_run(tmp_path):
    for box in ([0, 0, 30, 30], [5, 5, 9, 9]):
        root = coco_boxes(tmp_path, [[(18, box)]])
        pointing_table.table(network(), chosen(root, chosen_dataset="coco", operations=["gradcam"]))
        inside_it = result(root)[1].set_index("operation")["energy"]["chance"]
        assert inside_it == inside([(*box[:2], box[0] + box[2], box[1] + box[3])], (60, 40), (16, 16)).mean()
    assert len(list((root / "results").iterdir())) == 2


def test_a_map_of_zeros_is_a_miss_and_counted(tmp_path, capsys):
    model = network()
    dead = model.whole.network
    with torch.no_grad():
        dead.classifier[2].weight[[*imagenet_classes("dog"), *imagenet_classes("cat")]] = 0
    assert pointing_table.table(iia.wrap(dead, name="toy", image_size=16),
                                chosen(voc_boxes(tmp_path, [OBJECTS[0]]), operations=["gradcam"])) == 0
    summary, rows = result(tmp_path)
    assert summary["degenerate"] == {"gradcam": 2} and "2 maps of zeros (misses)" in capsys.readouterr().out
    assert rows[rows["operation"] == "gradcam"][["hit", "hit_15", "energy"]].eq(0).all(axis=None)


def test_wrong_settings_are_found_first(tmp_path):
    root = voc_boxes(tmp_path, OBJECTS)
    with pytest.raises(UserError, match="toy has 7 classes of its own; voc's categories"):
        pointing_table.table(iia.wrap(toy_vgg(), name="toy", image_size=16), chosen(root))
    for wrong, said in (({"chosen_dataset": "coc"}, "Did you mean 'coco'"), ({"operations": []}, "is empty"),
                        ({"dataset_root": str(root / "nowhere")}, "does not exist")):
        with pytest.raises(UserError, match=said):
            pointing_table.table(network(), chosen(root, **wrong))
    assert not (root / "results").exists()


def test_from_the_command_line(own_folder, capsys):
    voc_boxes(own_folder / "data" / "VOC", [OBJECTS[0]])
    assert run("pointing_game_cnn.py", "--num_workers=0", "--device=cpu", "--model_name=efficientnet_lite0",
               "--image_size=96", "--operations=gradcam") == 0
    said = capsys.readouterr().out
    assert said.count("hit ±15") == 2 and "1 pictures, 2 pairs" in said
    folder, = (own_folder / "pointing_results").iterdir()
    assert folder.name.startswith("voc_efficientnet_lite0_9_paper_")


@pytest.mark.parametrize("kind, name, other", [("cnn", "test_vit", "vit"), ("vit", "test_resnet", "cnn")])
def test_each_script_names_the_other(kind, name, other, own_folder, capsys):
    flags = (f"--model_name={name}", "--allow_random_weights", "--num_workers=0", "--device=cpu")
    assert run(f"pointing_game_{kind}.py", *flags) == 2
    assert f"give it to pointing_game_{other}.py" in capsys.readouterr().err
