"""The segmentation scripts as a user runs them: in a folder of their own, with flags."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import iia
from iia import segmentation_table
from iia.datasets.coco import Coco
from iia.datasets.labels import IMAGENET
from iia.evaluation import segmentation
from iia.models.names import build
from tests import oracles_segmentation
from tests.conftest import toy_vgg
from tests.scripts import run
from tests.segmentation_runs import QUICK, SIZE, read, results, run_coco, summary_of
from tests.segmentation_trees import annotation_file, coco_tree, gtsegs_tree, voc_tree

pytestmark = [pytest.mark.usefixtures("own_folder"),
              pytest.mark.filterwarnings("ignore:__array__ implementation")]      # pycocotools under NumPy 2


@pytest.mark.parametrize("name, tree, root", [
    ("imagenet", gtsegs_tree, "data"), ("coco", coco_tree, "data/COCO"), ("voc", voc_tree, "data/VOC")])
def test_a_table_of_each_data_set(name, tree, root, capsys):
    tree(Path(root))
    assert run(f"segmentation_cnn_{name}.py", *QUICK) == 0
    folder = results(f"{name}_efficientnet_lite0_9_paper")
    summary = summary_of(folder)
    rows = pd.read_csv(folder / "per_image.csv")
    assert len(rows) == 6 and summary["pictures"] == 3
    assert summary["settings"]["INTERPOLATION_STEPS"] == 1
    assert summary["versions"]["torch"] == torch.__version__
    assert summary["skipped"] == {"count": 0, "reasons": []}
    assert summary["degenerate"] == {"iia": 0, "iia-ablation-ac": 0}
    out = capsys.readouterr().out
    for operation, metrics in summary["figures"].items():
        own = rows[rows["operation"] == operation]
        assert segmentation.metrics(own) == pytest.approx(metrics, abs=1e-15)       # made of the rows alone
        line = next(line for line in out.splitlines() if line.startswith(operation + " "))
        shown = [f"{100 * metrics[key]:.2f}" for key in ("pixAcc", "mIoU", "mAP", "mF1", "F1")]
        assert line.split()[1:] == shown


def test_the_figures_are_those_of_the_predicted_classes_maps(coco):
    run_coco()
    model = iia.load_model("efficientnet_lite0", image_size=SIZE)
    pictures, masks, _ = zip(*Coco(coco, model.mean, model.std, SIZE))
    pictures = torch.stack(pictures)
    maps = iia.explain(model, pictures, iia.predict(model, pictures), "iia", steps=1)
    expected = oracles_segmentation.metrics(maps.numpy(), torch.stack(masks).numpy().astype(np.uint8))
    # a pixel at the mean may fall on either side
    assert read()[0]["iia"] == pytest.approx(expected, abs=1e-4)


def test_vit(coco):
    torch.save(build("test_vit")[0].state_dict(), "tiny.pth")
    vit = ["--model_name=test_vit", "--weights_path=tiny.pth", "--ITERATION_STEPS=1",
           "--operations=iia,rollout", "--max_images=2", "--num_workers=0", "--device=cpu"]
    assert run("seg_vit_datasets.py", *vit) == 0
    metrics, rows = read(results("coco_test_vit_*") / "first_2")
    assert metrics.keys() == {"iia", "rollout"} and rows.count("\n") == 5
    assert run("seg_vit_datasets.py", *vit, "--chosen_dataset=cocoa") == 2
    voc_tree(Path("data/VOC"))
    assert run("seg_vit_datasets.py", *vit, "--chosen_dataset=voc") == 0


@pytest.mark.parametrize("name, tree", [("coco", coco_tree), ("voc", voc_tree), ("imagenet", gtsegs_tree)])
def test_a_cnn_is_sent_to_the_script_of_the_same_data_set(name, tree, capsys):
    tree(Path("data") if name == "imagenet" else Path("data") / name.upper())
    flags = "--model_name=test_resnet", "--allow_random_weights", "--num_workers=0", "--device=cpu"
    assert run("seg_vit_datasets.py", *flags, f"--chosen_dataset={name}") == 2
    assert f"give it to segmentation_cnn_{name}.py" in capsys.readouterr().err
    assert run(f"segmentation_cnn_{name}.py", *flags, "--model_name=test_vit") == 2
    assert "give it to seg_vit_datasets.py" in capsys.readouterr().err


def test_released_coco_pictures_are_not_normalised(coco):
    voc_tree(Path("data/VOC"))
    model = iia.wrap(toy_vgg(), image_size=16)

    def lowest(name, definition):
        return segmentation_table.open_dataset(name, None, model, definition)[0][0].min()

    assert lowest("coco", "release") >= 0
    assert lowest("coco", "paper") < 0 and lowest("voc", "release") < 0


@pytest.mark.parametrize("flag, said", [
    ("--max_images=0", "max_images is 0"), ("--batch_size=0", "batch_size is 0"),
    ("--INTERPOLATION_STEPS=0", "INTERPOLATION_STEPS is 0"),
    ("--num_workers=-1", "num_workers is -1"), ("--save_overlays=-1", "save_overlays is -1"),
    ("--operations=iia,ia", "operation 'ia' is unknown"), ("--definition=papers", "Did you mean 'paper'"),
    ("--FEATURE_LAYER_NUMBER=99", "no layer of efficientnet_lite0"),
    ("--dataset_root=file", "file is a file; name the folder around it"),
    ("--dataset_root=nowhere", "nowhere does not exist"),
    ("--results_dir=file", "cannot write to"), ("--results_dir=/proc/results", "cannot write to")])
def test_what_is_wrong_is_said_before_the_first_picture(flag, said, coco, capsys, monkeypatch):
    Path("file").write_text("")
    monkeypatch.setattr(segmentation_table, "score", lambda *_: pytest.fail("a picture was explained"))
    assert run_coco(flag) == 2
    assert said in capsys.readouterr().err
    assert not list(Path().glob("**/per_image.csv"))


def test_a_broken_picture_is_named_counted_and_left_out(coco, capsys):
    (coco / "val2017/000000000020.jpg").write_bytes(b"no picture")
    assert run_coco() == 1
    said = capsys.readouterr()
    assert "skipped: 20: data/COCO/val2017/000000000020.jpg cannot be decoded" in said.err
    assert "2 pictures, explained" in said.out and "1 pictures skipped" in said.out
    assert summary_of()["skipped"]["count"] == 1
    assert [line.startswith("1,20,") for line in read()[1].splitlines()].count(True) == 1   # no zeros


def test_more_images_than_there_are_and_one_annotation_file_that_is_torn(coco, capsys):
    assert run_coco("--max_images=99") == 0
    assert "3 pictures, explained" in capsys.readouterr().out
    path = annotation_file(coco)
    path.write_text(path.read_text()[:-20])
    assert run_coco() == 2
    assert "cannot be read as COCO's instances" in capsys.readouterr().err


def test_degenerate_maps_are_counted(coco, capsys, monkeypatch):
    monkeypatch.setattr(segmentation_table, "explain_and_measure",
                        lambda model, x, *_, **__: (torch.zeros_like(x[:, 0]), torch.zeros(len(x))))
    assert run_coco() == 0
    summary = summary_of()
    assert summary["degenerate"] == {"iia": 3, "iia-ablation-ac": 3}
    assert "3 maps of iia are degenerate" in capsys.readouterr().out


def test_the_split_by_prediction(capsys, monkeypatch):
    """VOC's labels say what is in a picture. Person is no class of ImageNet: it is in neither part."""
    folder = voc_tree(Path("data/VOC"), count=4) / "VOCdevkit/VOC2012/SegmentationClass"
    for index, label in enumerate([8, 12, 15, 8]):                           # cat, dog, person, cat
        path = folder / f"2008_{index:06d}.png"
        mask = Image.open(path)
        labels, palette = np.array(mask), mask.getpalette()
        labels[labels == 15] = label
        changed = Image.fromarray(labels)
        changed.putpalette(palette)
        changed.save(path)
    cat = 285                                                                # the Egyptian one
    monkeypatch.setattr(segmentation_table, "predict", lambda model, x: torch.full((len(x),), cat))
    assert run("segmentation_cnn_voc.py", *QUICK) == 0
    folder = results("voc_*")
    rows = pd.read_csv(folder / "per_image.csv")
    assert rows.groupby("index")["right"].first().fillna(-1).tolist() == [1, 0, -1, 1]
    summary = summary_of(folder)
    for name, members in (("right", [0, 3]), ("wrong", [1])):
        own = rows[(rows["operation"] == "iia") & rows["index"].isin(members)]
        said = summary["by prediction"][name]
        assert said["pictures"] == len(members) and said["figures"]["iia"] == segmentation.metrics(own)
    everything = segmentation.metrics(rows[rows["operation"] == "iia"])
    assert summary["figures"]["iia"] == everything
    out = capsys.readouterr().out
    assert "the 2 pictures whose prediction is right" in out
    assert "the 1 pictures whose prediction is wrong" in out
    Path("names.txt").write_text("\n".join(f"class of mine {k}" for k in range(1000)))
    assert run("segmentation_cnn_voc.py", *QUICK, "--labels_file=names.txt") == 0        # other classes
    other, = set(Path("segmentation_results").glob("voc_*")) - {folder}
    assert pd.read_csv(other / "per_image.csv")["right"].isna().all()


def test_networks_of_other_classes_are_not_split():
    class Model:
        classes = 3
        labels = None

    assert segmentation_table.is_right(Model, 1, {1}) is None
    Model.classes = 1000
    assert [segmentation_table.is_right(Model, 1, known) for known in (None, {1, 2}, {2})] == [None, 1, 0]
    Model.labels = [f"bird {number}" for number in range(1000)]             # a thousand classes of its own
    assert segmentation_table.is_right(Model, 1, {1}) is None
    Model.labels = list(IMAGENET)
    assert segmentation_table.is_right(Model, 1, {1}) == 1
