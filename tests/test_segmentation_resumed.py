"""A segmentation script that runs again: for panels, with other settings, after a kill, in two processes."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.scripts import ROOT
from tests.segmentation_runs import QUICK, read, results, run_coco, summary_of
from tests.segmentation_trees import annotation_file, coco_tree

pytestmark = [pytest.mark.usefixtures("own_folder"),
              pytest.mark.filterwarnings("ignore:__array__ implementation")]      # pycocotools under NumPy 2


def test_panels_can_be_had_later_and_change_nothing(coco):
    run_coco()
    before = read()
    run_coco("--save_overlays=2")
    panels = sorted((results() / "overlays").iterdir())
    assert [panel.name for panel in panels] == ["10.png", "20.png"]
    assert min(Image.open(panels[0]).size) > 400 and read() == before
    page = (results() / "index.html").read_text()
    assert page.count('class="map"') == 4 and page.count('class="tile"') == 6    # maps of two of three
    ap = summary_of()["figures"]["iia"]["mAP"]
    assert f"<td>{100 * ap:.2f}</td>" in page


def test_settings_that_change_no_number_go_on_and_others_have_a_folder_of_their_own(coco):
    def folders():
        return len(list(Path("segmentation_results").iterdir()))

    run_coco()
    first, before = results(), read()
    run_coco("--num_workers=1", "--device=auto")
    assert read() == before and folders() == 1
    for times, flag in enumerate(["--INTERPOLATION_STEPS=2", "--operations=iia", "--definition=release",
                                  "--batch_size=3", "--precision=bf16"], 2):
        assert run_coco(flag) == 0
        assert read() and folders() == times
    assert read(first) == before


def test_other_annotations_or_other_classes_are_another_run(coco):
    """A network with names of its own is not asked whether it was right."""
    Path("names.txt").write_text("\n".join(f"thing {number}" for number in range(1000)))
    for flags in [], ["--labels_file=names.txt"], []:
        run_coco("--operations=iia-ablation-ac", *flags)
        os.utime(annotation_file(coco), ns=(0, 0)) if flags else None
    assert len({folder.name for folder in Path("segmentation_results").iterdir()}) == 3


# runs a script that is killed behind its third batch
KILLED = '''
import os, runpy, signal, sys
from iia.evaluation.runner import Run
save = Run.save

def save_and_die(self, batch, rows):
    save(self, batch, rows)
    if batch.number == 2:
        os.kill(os.getpid(), signal.SIGKILL)

Run.save = save_and_die
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
'''


def test_killed_and_then_resumed_by_two_processes_of_torchrun_is_as_undisturbed():
    coco_tree(Path("data/COCO"), count=12)
    script = [str(ROOT / "segmentation_cnn_coco.py"), *QUICK, "--num_workers=1", "--results_dir=killed"]
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    killed = subprocess.run([sys.executable, "-c", KILLED, *script], env=env, timeout=200)
    assert killed.returncode == -signal.SIGKILL
    folder = results(under="killed")
    assert len(list(folder.glob("batches/*.json"))) == 3 and not (folder / "summary.json").exists()

    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    process = subprocess.Popen([*torchrun, *script], env=env, text=True, stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT)
    try:
        output = process.communicate(timeout=200)[0]
    finally:
        process.terminate()                                         # and its children, should they hang
    assert process.returncode == 0, output
    assert output.count("12 pictures, explained") == 1              # one process reports
    run_coco("--results_dir=undisturbed")
    assert read(folder) == read(results(under="undisturbed"))
