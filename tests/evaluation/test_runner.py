"""The runner, on an evaluation of numbers instead of pictures.

Its figures depend on a batch as a whole, as those of a network do in their last digits.
"""

import json
import multiprocessing
import os
import signal
import socket
import sys

import pytest
import torch

from iia.errors import UserError
from iia.evaluation import runner


class Numbers(torch.utils.data.Dataset):
    """Picture i is the number i / 7; those in `broken` cannot be read."""

    def __init__(self, count=23, broken=()):
        self.ids, self.broken = [f"n,{i}" for i in range(count)], broken

    def __getitem__(self, index):
        if index in self.broken:
            raise UserError(f"number {index} is broken")
        return torch.tensor(index / 7), self.ids[index]


def evaluate(folder, log=None, count=23, broken=(), batch_size=3, steps=10, die_at=None, fail_at=None, **more):
    """Two figures of each number. The process is killed when picture `die_at` is scored, or fails at `fail_at`;
    `log` collects what was scored."""
    def score(batch):
        (numbers,) = batch.fields
        if die_at in batch.indices:
            os.kill(os.getpid(), signal.SIGKILL)
        if fail_at in batch.indices:
            raise UserError(f"picture {fail_at} is too much")
        if log is not None:
            log.append(batch.indices)
        return [{"index": index, "operation": operation, "value": float(x.double() * factor + numbers.sum())}
                for operation, factor in (("once", 1), ("thrice", 3)) for index, x in zip(batch.indices, numbers)]

    measure = runner.Measure(["once", "thrice"], {"value": float}, score, mean, headline=("mean",))
    return runner.evaluate(Numbers(count, broken), measure, folder, identity={"steps": steps},
                           settings={"steps": steps}, batch_size=batch_size, **more)


def mean(rows):
    return {"mean": sum(row["value"] for row in rows) / len(rows)}


def start(folder, size=1, **how):
    """Start `evaluate` in processes of their own, as torchrun would; what they say is in {folder}.{rank}.txt."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    context = multiprocessing.get_context("fork")
    crew = [context.Process(target=child, args=(folder, rank, size, port), kwargs=how) for rank in range(size)]
    for process in crew:
        process.start()
    return crew


def child(folder, rank, size, port, **how):
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1",
                   "MASTER_PORT": str(port)}
    with open(f"{folder}.{rank}.txt", "w") as sys.stderr:
        try:
            evaluate(folder, **how)
        except UserError as why:
            print(why, file=sys.stderr)
            sys.exit(1)


def codes(crew):
    """The exit codes of processes; one that hangs fails the test."""
    for process in crew:
        process.join(30)
        process.kill() if process.exitcode is None else None
    return [process.exitcode for process in crew]


def said(folder, rank):
    return open(f"{folder}.{rank}.txt").read()


def files(folder):
    """What must be the same to the last digit, however the run went."""
    summary = json.loads((folder / "summary.json").read_text())
    return summary["figures"], summary["skipped"], (folder / "per_image.csv").read_text()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    evaluate(folder)
    return files(folder)


def test_figures_are_those_of_the_rows(tmp_path):
    summary = evaluate(tmp_path / "run", count=4, batch_size=3)
    # rows are x·factor + Σ of the batch: batches (0, 1/7, 2/7) and (3/7,)
    values = {f: [i / 7 * f + (3 / 7) for i in range(4)] for f in (1, 3)}
    assert summary["figures"]["once"]["mean"] == pytest.approx(sum(values[1]) / 4, rel=1e-6)
    assert summary["figures"]["thrice"]["mean"] == pytest.approx(sum(values[3]) / 4, rel=1e-6)
    assert summary["pictures"] == 4
    lines = (tmp_path / "run" / "per_image.csv").read_text().splitlines()
    assert lines[0] == "index,id,operation,skipped,degenerate,value" and len(lines) == 9
    assert lines[1].startswith('0,"n,0",once,,0,')


def test_killed_then_resumed_is_as_undisturbed(tmp_path, undisturbed):
    folder = tmp_path / "run"
    assert codes(start(folder, die_at=13)) == [-9]
    with open(folder / "per_image.csv", "a") as file:
        file.write('12,"n,12",once,,0,3.1')             # a line that was torn, of a batch that was not finished
    log = []
    evaluate(folder, log)
    assert log[0] == [12, 13, 14] and len(log) == 4
    assert files(folder) == undisturbed


def test_a_number_that_was_torn_is_not_believed(tmp_path, undisturbed):
    folder, log = tmp_path / "run", []
    evaluate(folder)
    whole = (folder / "per_image.csv").read_text()
    (folder / "per_image.csv").write_text(whole[:-6])                # the last row is there, but for some digits
    evaluate(folder, log)
    assert log == [[21, 22]] and files(folder) == undisturbed


def test_a_batch_with_a_row_lacking_is_computed_again(tmp_path, undisturbed):
    folder = tmp_path / "run"
    evaluate(folder)
    lines = (folder / "per_image.csv").read_text().splitlines(keepends=True)
    (folder / "per_image.csv").write_text("".join(lines[:8] + lines[9:]))
    log = []
    evaluate(folder, log)
    assert log == [[3, 4, 5]]
    assert files(folder) == undisturbed


def test_a_finished_run_computes_nothing(tmp_path, undisturbed):
    folder, log = tmp_path / "run", []
    evaluate(folder)
    evaluate(folder, log)
    assert log == [] and files(folder) == undisturbed


def test_reading_processes_change_nothing(tmp_path, undisturbed):
    evaluate(tmp_path / "run", num_workers=2)
    assert files(tmp_path / "run") == undisturbed


def test_two_processes_are_as_one(tmp_path, undisturbed):
    folder = tmp_path / "run"
    assert codes(start(folder, size=2)) == [0, 0], said(folder, 0) + said(folder, 1)
    assert files(folder) == undisturbed
    assert [path.name for path in folder.glob("per_image*")] == ["per_image.csv"]


def test_a_process_that_dies_stops_the_others_and_loses_nothing(tmp_path, undisturbed):
    folder = tmp_path / "run"
    assert codes(start(folder, size=2, die_at=15)) == [1, -9]            # in batch 5, which is process 1's
    assert "another process of this run has stopped" in said(folder, 0)
    assert (folder / "per_image.1.csv").exists()
    log = []
    evaluate(folder, log)
    assert log == [[15, 16, 17], [21, 22]]
    assert files(folder) == undisturbed


def test_an_error_of_process_0_is_everyones(tmp_path):
    folder = tmp_path / "run"
    folder.write_text("a file where the results should go")
    assert codes(start(folder, size=2)) == [1, 1]
    assert "cannot write to" in said(folder, 0) and "cannot write to" in said(folder, 1)


def test_a_changed_setting_is_not_mixed_in(tmp_path, capsys):
    folder = tmp_path / "run"
    evaluate(folder, count=5)
    old = (folder / "per_image.csv").read_text()
    log = []
    evaluate(folder, log, count=5, steps=20)
    assert log == [[0, 1, 2], [3, 4]]
    assert (tmp_path / "run.1" / "per_image.csv").read_text() == old
    assert "steps changed" in capsys.readouterr().err
    evaluate(folder, count=5, steps=30)
    assert (tmp_path / "run.2" / "summary.json").exists()


@pytest.mark.parametrize("change", [{"count": 6}, {"batch_size": 2}, {"max_images": 4}])
def test_other_pictures_or_batches_are_another_run(tmp_path, change):
    evaluate(tmp_path / "run", count=5)
    evaluate(tmp_path / "run", **{"count": 5, **change})
    assert (tmp_path / "run.1").is_dir()


def test_more_pictures_continue(tmp_path, undisturbed):
    folder, log = tmp_path / "run", []
    assert evaluate(folder, max_images=7)["pictures"] == 7
    with pytest.raises(UserError, match="too much"):
        evaluate(folder, max_images=20, fail_at=12)
    assert not (folder / "summary.json").exists()                        # the one of 7 pictures is no longer true
    evaluate(folder, log, max_images=100)
    assert log[0] == [12, 13, 14] and not (tmp_path / "run.1").exists()
    assert files(folder) == undisturbed


def test_rows_without_settings_are_set_aside(tmp_path, capsys):
    folder = tmp_path / "run"
    evaluate(folder, count=2)
    (folder / "settings.json").write_text('{"identity": ')
    evaluate(folder, count=2)
    assert (tmp_path / "run.1" / "per_image.csv").exists()
    assert "without the settings" in capsys.readouterr().err


def test_broken_pictures_are_named_counted_and_tried_again(tmp_path, undisturbed, capsys):
    folder, log = tmp_path / "run", []
    summary = evaluate(folder, broken=(4, 5))
    assert summary["skipped"] == {"count": 2, "reasons": ["n,4: number 4 is broken", "n,5: number 5 is broken"]}
    assert summary["pictures"] == 21
    assert "skipped: n,4: number 4 is broken" in capsys.readouterr().err
    whole = [row for row in runner.csv.DictReader((folder / "per_image.csv").open()) if row["value"]]
    assert len(whole) == 42                                            # no zeros in their place
    evaluate(folder, log, broken=(4, 5))
    assert log == []
    evaluate(folder, log)
    assert log == [[3, 4, 5]] and files(folder) == undisturbed


def test_nothing_usable_is_an_error(tmp_path):
    with pytest.raises(UserError, match="none of the 2 pictures could be used; the first: n,0: number 0 is broken"):
        evaluate(tmp_path / "run", count=2, broken=(0, 1))


def test_what_score_skips_and_calls_degenerate_is_counted(tmp_path):
    def score(batch):
        return [{"index": i, "operation": "a", "skipped": "no map"} if i == 1 else
                {"index": i, "operation": "a", "x": 1, "degenerate": int(i == 2)} for i in batch.indices]

    measure = runner.Measure(["a"], {"x": int}, score, lambda rows: {"x": sum(row["x"] for row in rows)})
    summary = runner.evaluate(Numbers(4), measure, tmp_path / "run", identity={}, settings={}, batch_size=2)
    assert summary["figures"] == {"a": {"x": 3}} and summary["degenerate"] == {"a": 1}
    assert summary["skipped"] == {"count": 1, "reasons": ["n,1 a: no map"]}


def test_redo_computes_the_batches_again(tmp_path, undisturbed):
    folder, log = tmp_path / "run", []
    evaluate(folder)
    evaluate(folder, log, redo=[7])
    assert log == [[6, 7, 8]] and files(folder) == undisturbed


def test_a_failure_keeps_what_was_done(tmp_path, undisturbed):
    folder, log = tmp_path / "run", []
    with pytest.raises(UserError, match="too much"):
        evaluate(folder, fail_at=10)
    assert not (folder / "summary.json").exists()
    evaluate(folder, log)
    assert log[0] == [9, 10, 11] and files(folder) == undisturbed


@pytest.mark.parametrize("number", [0, -3])
def test_max_images_is_positive(tmp_path, number):
    with pytest.raises(UserError, match="max_images"):
        evaluate(tmp_path / "run", max_images=number)
    assert not (tmp_path / "run").exists()


def test_fingerprint_tells_weights_apart():
    torch.manual_seed(0)
    one, same = torch.nn.Linear(2, 3), torch.nn.Linear(2, 3)
    same.load_state_dict(one.state_dict())
    assert runner.fingerprint(one) == runner.fingerprint(same)
    with torch.no_grad():
        same.weight[0, 0] += 1e-6
    assert runner.fingerprint(one) != runner.fingerprint(same)
    assert runner.fingerprint(one) != runner.fingerprint(one.bfloat16())
