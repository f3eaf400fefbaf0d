"""The resumable loop: what it writes, shows, skips and forgets."""

import gc
import json
import os
from pathlib import Path

import pandas as pd
import pytest
import torch

from iia.errors import UserError
from iia.evaluation import runner
from iia.evaluation.rows import frame
from tests.evaluation.runs_of_numbers import Numbers, batches, codes, evaluate, files, said, start, whole


def test_many_figures_make_a_table_that_pandas_does_not_warn_of(recwarn):
    """RISE's curves are 300 columns; a page adds one to them."""
    row = {"index": 0, "id": "a", "operation": "iia", "skipped": "", "degenerate": 0}
    frame([row], {f"NEG{number}": float for number in range(300)}).assign(value=1.0)
    assert not recwarn.list


def test_the_files_hold_the_rows(tmp_path):
    summary = evaluate(tmp_path / "run", count=4, batch_size=3, steps=0)
    # rows are x·factor + Σ of the batch: batches (0, 1/7, 2/7) and (3/7,)
    values = {f: [i / 7 * f + (3 / 7) for i in range(4)] for f in (1, 3)}
    assert summary["figures"]["once"]["mean"] == pytest.approx(sum(values[1]) / 4, rel=1e-6)
    assert summary["figures"]["thrice"]["mean"] == pytest.approx(sum(values[3]) / 4, rel=1e-6)
    assert summary["pictures"] == 4
    folder = whole(tmp_path / "run")
    lines = (folder / "per_image.csv").read_text().splitlines()
    assert lines[0] == "index,id,operation,skipped,degenerate,value" and len(lines) == 9
    assert lines[1].startswith('0,"n,0",once,,0,') and lines[2].startswith('0,"n,0",thrice,,0,')
    rows = pd.read_csv(folder / "per_image.csv")
    # every digit
    assert rows["value"][rows["operation"] == "once"].sum() / 4 == summary["figures"]["once"]["mean"]
    for name in ("summary.json", "settings.json"):
        record = json.loads((folder / name).read_text())
        assert record["settings"] == {"steps": 0} and record["versions"]["torch"] == torch.__version__
        assert record["identity"]["steps"] == 0 and record["identity"]["pictures together"] == 3
    assert {path.name for path in folder.iterdir()} == {".claims", "batches", "per_image.csv",
                                                        "settings.json", "summary.json"}


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="the system does not list open files")
def test_a_run_leaves_no_file_open(tmp_path):
    evaluate(tmp_path)
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        evaluate(tmp_path)
        gc.collect()
    assert len(os.listdir("/proc/self/fd")) <= before


def test_a_finished_run_computes_nothing(tmp_path, undisturbed):
    folder, log = tmp_path / "run", []
    evaluate(folder)
    evaluate(folder, log)
    assert log == [] and files(whole(folder)) == undisturbed


def test_reading_processes_change_nothing(tmp_path, undisturbed):
    evaluate(tmp_path / "run", num_workers=2)
    assert files(whole(tmp_path / "run")) == undisturbed


@pytest.mark.parametrize("num_workers", [1, 2])
def test_a_reading_process_that_is_killed_is_one_sentence(tmp_path, num_workers):
    folder = tmp_path / "run"
    assert codes(start(folder, deadly=22, num_workers=num_workers)) == [1]
    last = said(folder, 0).splitlines()[-1]
    assert "a process that reads pictures has stopped" in last and last.endswith("if memory is short.")
    assert "Traceback" not in said(folder, 0) and batches(folder)


def test_the_bar_shows_the_metrics_so_far(tmp_path, capsys):
    def headline(rows):
        return {"mean": 100 * rows["value"].mean()}
    evaluate(tmp_path / "run", count=6, max_images=3, headline=headline)
    capsys.readouterr()
    evaluate(tmp_path / "run", count=6, headline=headline)
    shown = capsys.readouterr().err
    first, second = (i / 7 for i in range(3)), (i / 7 for i in range(3, 6))
    mean = (sum(first) + sum(second)) / 6 + (3 / 7 + 12 / 7) / 2 + 10
    assert "6/6 " in shown and f"once mean {100 * mean:.4g}" in shown         # of the earlier rows, too


def test_the_bars_metrics_cost_next_to_nothing(tmp_path):
    """They are made of all rows so far, so they are made anew only when there are a tenth more."""
    made = []
    evaluate(tmp_path / "run", count=100, batch_size=1, operations=("once",),
             headline=lambda rows: made.append(len(rows)) or {})
    assert made[:2] == [1, 2] and len(made) < 40 and all(b >= 1.1 * a for a, b in zip(made, made[1:]))


def test_broken_pictures_are_named_counted_and_tried_again(tmp_path, undisturbed, capsys):
    folder, log = tmp_path / "run", []
    summary = evaluate(folder, broken=(4, 5))
    assert summary["skipped"] == {"count": 2,
                                  "reasons": ["n,4: number 4 is broken", "n,5: number 5 is broken"]}
    assert summary["pictures"] == 21
    assert "skipped: n,4: number 4 is broken" in capsys.readouterr().err
    rows = pd.read_csv(whole(folder) / "per_image.csv")
    # no zeros instead
    assert rows["value"].notna().sum() == 42 and rows["index"].tolist() == sorted(rows["index"])
    evaluate(folder, log, broken=(4, 5))
    assert log == []
    evaluate(folder, log, broken=(4,))
    assert log == [[3, 5]]
    evaluate(folder, log)
    assert log == [[3, 5], [3, 4, 5]] and files(whole(folder)) == undisturbed


def test_nothing_usable_is_an_error(tmp_path):
    with pytest.raises(UserError,
                       match="none of the 2 pictures could be used; the first: n,0: number 0 is broken"):
        evaluate(tmp_path / "run", count=2, broken=(0, 1))


def test_what_is_skipped_or_degenerate_is_counted(tmp_path):
    run = runner.Run(Numbers(4), tmp_path / "run", ["a"], {"x": int, "y": float}, 2, {}, {})
    rows = run.complete(lambda batch: [
        {"index": i, "operation": "a", "skipped": "no map"} if i == 1 else
        {"index": i, "operation": "a", "x": i, "y": float("nan"), "degenerate": int(i == 2)}
        for i in batch.indices])
    summary = run.write(rows, {"a": {"x": 5}}, more="said")
    assert summary["degenerate"] == {"a": 1} and summary["more"] == "said" and summary["pictures"] == 3
    assert summary["skipped"] == {"count": 1, "reasons": ["n,1 a: no map"]}
    assert "NaN" not in batches(tmp_path / "run")[0].read_text()
    assert (run.folder / "per_image.csv").read_text().splitlines()[1:] == [
        '0,"n,0",a,,0,0,', '1,"n,1",a,no map,0,,', '2,"n,2",a,,1,2,', '3,"n,3",a,,0,3,']


def test_what_is_forgotten_is_computed_again(tmp_path, undisturbed):
    evaluate(tmp_path / "run")
    run = runner.Run(Numbers(), tmp_path / "run", ["once", "thrice"], {"value": float}, 3, {"steps": 10}, {})
    run.forget([7, 8, 22])
    log = []
    evaluate(tmp_path / "run", log)
    assert log == [[6, 7, 8], [21, 22]] and files(whole(tmp_path / "run")) == undisturbed
