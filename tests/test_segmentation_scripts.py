"""The segmentation scripts as a user runs them: in a folder of their own, with flags."""

import json
import os
import runpy
import signal
import subprocess
import sys
import time
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
from tests.segmentation_trees import annotation_file, coco_tree, gtsegs_tree, voc_tree

ROOT = Path(__file__).parents[1]
QUICK = ["--INTERPOLATION_STEPS=1", "--operations=iia,iia-ablation-ac", "--model_name=efficientnet_lite0",
         "--batch_size=2", "--num_workers=0", "--device=cpu"]
COCO = "coco_efficientnet_lite0_9_paper"

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation")      # pycocotools under NumPy 2


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    """Scripts run in an empty folder, on one core, so that figures of different runs may be compared."""
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield tmp_path
    torch.set_num_threads(threads)


def run(script, *flags):
    """Run a script in this process; its exit code."""
    arguments, sys.argv = sys.argv, [script, *flags]
    try:
        runpy.run_path(str(ROOT / script), run_name="__main__")
    except SystemExit as end:
        return end.code
    finally:
        sys.argv = arguments


def start(*command):
    """Start a command in a process of its own."""
    return subprocess.Popen([sys.executable, *command], env=os.environ | {"OMP_NUM_THREADS": "1"},
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def results(name=COCO, under="segmentation_results"):
    """The folder of results whose name begins so, the latest where settings have changed."""
    return max(Path(under).glob(f"{name}_????????"), key=lambda path: path.stat().st_mtime_ns)


def read(folder=None):
    """A run's metrics and rows."""
    folder = folder or results()
    return json.loads((folder / "summary.json").read_text())["figures"], (folder / "per_image.csv").read_text()


@pytest.mark.parametrize("name, tree, root", [("imagenet", gtsegs_tree, "data"), ("coco", coco_tree, "data/COCO"),
                                              ("voc", voc_tree, "data/VOC")])
def test_a_table_of_each_data_set(name, tree, root, capsys):
    tree(Path(root))
    assert run(f"segmentation_cnn_{name}.py", *QUICK) == 0
    folder = results(f"{name}_efficientnet_lite0_9_paper")
    summary = json.loads((folder / "summary.json").read_text())
    rows = pd.read_csv(folder / "per_image.csv")
    assert len(rows) == 6 and summary["pictures"] == 3
    assert summary["settings"]["INTERPOLATION_STEPS"] == 1 and summary["versions"]["torch"] == torch.__version__
    assert summary["skipped"] == {"count": 0, "reasons": []}
    assert summary["degenerate"] == {"iia": 0, "iia-ablation-ac": 0}
    out = capsys.readouterr().out
    for operation, metrics in summary["figures"].items():
        own = rows[rows["operation"] == operation]
        assert segmentation.metrics(own) == pytest.approx(metrics, abs=1e-15)           # the table can be made again
        line = next(line for line in out.splitlines() if line.startswith(operation + " "))
        assert line.split()[1:] == [f"{100 * metrics[key]:.2f}" for key in ("pixAcc", "mIoU", "mAP", "mF1", "F1")]


def test_the_figures_are_those_of_the_predicted_classes_maps():
    coco_tree(Path("data/COCO"))
    run("segmentation_cnn_coco.py", *QUICK)
    model = iia.load_model("efficientnet_lite0")
    pictures, masks, _ = zip(*Coco("data/COCO", model.mean, model.std))
    pictures = torch.stack(pictures)
    maps = iia.explain(model, pictures, iia.predict(model, pictures), "iia", steps=1)
    expected = oracles_segmentation.metrics(maps.numpy(), torch.stack(masks).numpy().astype(np.uint8))
    assert read()[0]["iia"] == pytest.approx(expected, abs=1e-4)       # a pixel at the mean may fall on either side


def test_vit():
    coco_tree(Path("data/COCO"))
    weights = Path("tiny.pth")
    torch.save(build("vit-tiny")[0].state_dict(), weights)
    vit = ["--model_name=vit-tiny", f"--weights_path={weights}", "--ITERATION_STEPS=1", "--operations=iia,rollout",
           "--max_images=2", "--num_workers=0", "--device=cpu"]
    assert run("seg_vit_datasets.py", *vit) == 0
    metrics, rows = read(results("coco_vit-tiny_12_paper") / "first_2")
    assert metrics.keys() == {"iia", "rollout"} and rows.count("\n") == 5
    assert run("seg_vit_datasets.py", *vit, "--chosen_dataset=cocoa") == 2
    voc_tree(Path("data/VOC"))
    assert run("seg_vit_datasets.py", *vit, "--chosen_dataset=voc") == 0


def test_released_coco_pictures_are_not_normalised():
    coco_tree(Path("data/COCO")), voc_tree(Path("data/VOC"))
    model = iia.load_model("efficientnet_lite0")

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
    ("--dataset_root=file", "file is a file; dataset_root is a folder"),
    ("--dataset_root=nowhere", "nowhere does not exist"),
    ("--results_dir=file", "cannot write to"), ("--results_dir=/proc/results", "cannot write to")])
def test_what_is_wrong_is_said_before_the_first_picture(flag, said, capsys, monkeypatch):
    coco_tree(Path("data/COCO"))
    Path("file").write_text("")
    monkeypatch.setattr(segmentation_table, "score", lambda *_: pytest.fail("a picture was explained"))
    assert run("segmentation_cnn_coco.py", *QUICK, flag) == 2
    assert said in capsys.readouterr().err
    assert not list(Path().glob("**/per_image.csv"))


def test_a_broken_picture_is_named_counted_and_left_out(capsys):
    coco_tree(Path("data/COCO"))
    Path("data/COCO/val2017/000000000020.jpg").write_bytes(b"no picture")
    assert run("segmentation_cnn_coco.py", *QUICK) == 1
    said = capsys.readouterr()
    assert "skipped: 20: data/COCO/val2017/000000000020.jpg cannot be decoded" in said.err
    assert "2 pictures, explained" in said.out and "1 pictures skipped" in said.out
    assert json.loads((results() / "summary.json").read_text())["skipped"]["count"] == 1
    assert len([line for line in read()[1].splitlines() if line.startswith("1,20,")]) == 1      # the skip, no zeros


def test_more_images_than_there_are_and_one_annotation_file_that_is_torn(capsys):
    coco_tree(Path("data/COCO"))
    assert run("segmentation_cnn_coco.py", *QUICK, "--max_images=99") == 0
    assert "3 pictures, explained" in capsys.readouterr().out
    path = annotation_file(Path("data/COCO"))
    path.write_text(path.read_text()[:-20])
    assert run("segmentation_cnn_coco.py", *QUICK) == 2
    assert "cannot be read as COCO's instances" in capsys.readouterr().err


def test_degenerate_maps_are_counted(capsys, monkeypatch):
    coco_tree(Path("data/COCO"))
    monkeypatch.setattr(segmentation_table, "explain_and_measure",
                        lambda model, x, *_, **__: (torch.zeros_like(x[:, 0]), torch.zeros(len(x))))
    assert run("segmentation_cnn_coco.py", *QUICK) == 0
    assert json.loads((results() / "summary.json").read_text())["degenerate"] == {"iia": 3, "iia-ablation-ac": 3}
    assert "3 maps of iia are degenerate" in capsys.readouterr().out


def test_panels_can_be_had_later_and_change_nothing():
    coco_tree(Path("data/COCO"))
    run("segmentation_cnn_coco.py", *QUICK)
    before = read()
    run("segmentation_cnn_coco.py", *QUICK, "--save_overlays=2")
    panels = sorted((results() / "overlays").iterdir())
    assert [panel.name for panel in panels] == ["10.png", "20.png"]
    assert min(Image.open(panels[0]).size) > 400 and read() == before
    page = (results() / "index.html").read_text()
    assert page.count('class="map"') == 4 and page.count('class="tile"') == 6       # two of three pictures have maps
    ap = json.loads((results() / "summary.json").read_text())["figures"]["iia"]["mAP"]
    assert f"<td>{100 * ap:.2f}</td>" in page


def test_settings_that_change_no_number_go_on_and_others_have_a_folder_of_their_own():
    coco_tree(Path("data/COCO"))
    run("segmentation_cnn_coco.py", *QUICK)
    first, before = results(), read()
    run("segmentation_cnn_coco.py", *QUICK, "--num_workers=1", "--device=auto")
    assert read() == before and len(list(Path("segmentation_results").iterdir())) == 1
    for times, flag in enumerate(["--INTERPOLATION_STEPS=2", "--operations=iia", "--definition=release",
                                  "--batch_size=3", "--precision=bf16"], 2):
        assert run("segmentation_cnn_coco.py", *QUICK, flag) == 0
        assert read(results("coco_efficientnet_lite0_9_*")) and len(list(Path("segmentation_results").iterdir())) == times
    assert read(first) == before


def test_killed_and_resumed_or_shared_is_as_undisturbed(own_folder):
    coco_tree(Path("data/COCO"), count=12)
    run("segmentation_cnn_coco.py", *QUICK, "--results_dir=undisturbed")
    script = [str(ROOT / "segmentation_cnn_coco.py"), *QUICK, "--num_workers=1"]

    process = start(*script, "--results_dir=killed")
    while process.poll() is None and len(list(Path("killed").glob("*/batches/*.json"))) < 3:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (results(under="killed") / "summary.json").exists(), "killed too late for this test"
    assert run("segmentation_cnn_coco.py", *QUICK, "--results_dir=killed") == 0

    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    process = start(*torchrun, *script, "--results_dir=shared")
    try:
        output = process.communicate(timeout=200)[0]
    finally:
        process.terminate()                                                   # and its children, should they hang
    assert process.returncode == 0, output
    assert output.count("12 pictures, explained") == 1                        # one process reports

    for name in ("killed", "shared"):
        assert read(results(under=name)) == read(results(under="undisturbed")), name


def test_the_split_by_prediction(capsys, monkeypatch):
    """VOC's labels say what is in a picture. Person is no class of ImageNet: such a picture is in neither part."""
    voc_tree(Path("data/VOC"), count=4)
    kinds = {0: 8, 1: 12, 2: 15, 3: 8}                                   # cat, dog, person, cat
    for index, label in kinds.items():
        path = Path(f"data/VOC/VOCdevkit/VOC2012/SegmentationClass/2008_{index:06d}.png")
        mask = Image.open(path)
        labels, palette = np.array(mask), mask.getpalette()
        labels[labels == 15] = label
        changed = Image.fromarray(labels)
        changed.putpalette(palette)
        changed.save(path)
    monkeypatch.setattr(segmentation_table, "predict", lambda model, x: torch.full((len(x),), 285))  # Egyptian cat
    assert run("segmentation_cnn_voc.py", *QUICK) == 0
    (folder,) = Path("segmentation_results").glob("voc_*")
    rows = pd.read_csv(folder / "per_image.csv")
    assert rows.groupby("index")["right"].first().fillna(-1).tolist() == [1, 0, -1, 1]
    summary = json.loads((folder / "summary.json").read_text())
    for name, members in (("right", [0, 3]), ("wrong", [1])):
        own = rows[(rows["operation"] == "iia") & rows["index"].isin(members)]
        said = summary["by prediction"][name]
        assert said["pictures"] == len(members) and said["figures"]["iia"] == segmentation.metrics(own)
    everything = segmentation.metrics(rows[rows["operation"] == "iia"])
    assert summary["figures"]["iia"] == everything
    out = capsys.readouterr().out
    assert "the 2 pictures whose prediction is right" in out and "the 1 pictures whose prediction is wrong" in out


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
