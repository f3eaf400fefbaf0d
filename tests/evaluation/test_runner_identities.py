"""What a table is known by: each identity has a folder of its own, and nothing is moved or believed."""

import os
from pathlib import Path
from unittest import mock

import pytest
import torch

import iia
from iia import runs
from iia.errors import UserError
from iia.evaluation import runner
from iia.evaluation.identity import HARMLESS, digest, file_signatures, fingerprint, identity, weights_of
from iia.settings import Settings, commented_variables
from tests.evaluation.runs_of_numbers import Numbers, evaluate, files, whole
from tests.evaluation.toys import Scrambles


@pytest.mark.parametrize("change", [{"steps": 11}, {"batch_size": 2}, {"count": 6}, {"operations": ("once",)},
                                    {"more": {"new": None}}, {"operations": ("thrice", "once")}])
def test_each_identity_has_a_folder_of_its_own(tmp_path, change):
    """A setting that changed, came, or went: nothing is moved, nothing believed."""
    usual, log = {"count": 5}, []
    evaluate(tmp_path / "run", **usual)
    before = files(whole(tmp_path / "run"))
    evaluate(tmp_path / "run", log, **usual | change)
    first, second = sorted(tmp_path.glob("run_*"), key=lambda path: path.stat().st_ctime_ns)
    assert sum(map(len, log)) == (usual | change)["count"]
    log.clear()
    evaluate(tmp_path / "run", log, **usual)
    assert log == [] and before in (files(first), files(second)) and len(list(tmp_path.iterdir())) == 2


def test_more_pictures_continue_and_fewer_leave_the_table_of_more(tmp_path, undisturbed):
    folder, log = tmp_path / "run", []
    assert evaluate(folder, log, max_images=7)["pictures"] == 7
    assert log[-1] == [6]
    seven = files(whole(folder) / "first_7")
    log.clear()
    assert evaluate(folder, log, max_images=20)["pictures"] == 20
    assert log[0] == [6, 7, 8] and log[-1] == [18, 19]                       # batches are whole
    log.clear()
    evaluate(folder, log, max_images=100)
    assert log == [[18, 19, 20], [21, 22]]
    assert files(whole(folder)) == undisturbed
    log.clear()
    assert evaluate(folder, log, max_images=7)["pictures"] == 7
    assert log == [] and files(whole(folder) / "first_7") == seven and files(whole(folder)) == undisturbed


def test_versions_that_changed_under_a_resume_are_said(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="too much"):
        evaluate(tmp_path / "run", fail_at=10)
    before = runs.versions()
    monkeypatch.setattr(runner, "versions", lambda: before | {"torch": "9.9"})
    summary = evaluate(tmp_path / "run")
    assert summary["versions"]["torch"] == "9.9" and summary["begun with versions"] == before
    assert "begun with versions" not in evaluate(tmp_path / "other")


def test_fingerprint_tells_weights_and_statistics_apart():
    torch.manual_seed(0)
    one, same = (torch.nn.Sequential(torch.nn.Conv2d(2, 3, 1), torch.nn.BatchNorm2d(3)) for _ in range(2))
    same.load_state_dict(one.state_dict())
    assert fingerprint(one) == fingerprint(same)
    same[1].running_mean += 1e-6
    assert fingerprint(one) != fingerprint(same)
    same.load_state_dict(one.state_dict())
    with torch.no_grad():
        same[0].weight[0, 0] += 1e-6
    assert fingerprint(one) != fingerprint(same)
    assert fingerprint(one) != fingerprint(one.bfloat16())
    twins = {"a": torch.ones(2), "b": torch.ones(2)}
    named = [mock.Mock(state_dict=lambda names=names: dict(zip(names, twins.values())))
             for names in (["a", "b"], ["b", "a"])]
    assert fingerprint(named[0]) != fingerprint(named[1])


def test_a_table_knows_a_network_by_its_own_weights_and_not_by_its_quicker_copies(vgg):
    model = iia.wrap(vgg, image_size=16)
    before, whole = weights_of(model), fingerprint(model)
    model.quick = torch.nn.Linear(2, 2)                     # as another machine may have rounded it
    assert weights_of(model) == before == fingerprint(model.whole) and fingerprint(model) != whole


def test_a_setting_that_changes_comes_or_goes_is_another_identity():
    model = Scrambles()
    base = {"definition": "paper", "steps": 5, "device": "cpu", "num_workers": 2,
            "FEATURE_LAYER_NUMBER": "last"}
    usual = identity(model, Settings(**base), 3)
    for change in ({"steps": 6}, {"definition": "release"}, {"new": None}):
        assert identity(model, Settings(**base | change), 3) != usual, change
    assert identity(model, Settings(**{name: base[name] for name in base if name != "steps"}), 3) != usual
    assert identity(model, Settings(**base), 4) != usual != identity(model, Settings(**base), 3, maps="1-a")
    assert identity(model, Settings(**base | {"device": "cuda", "num_workers": 0, "FEATURE_LAYER_NUMBER": 3}),
                    3) == usual


def test_every_setting_that_can_change_a_number_is_in_a_tables_identity():
    """Of all scripts that make a table: who adds a setting says here whether it changes numbers."""
    scripts = [path for path in Path(__file__).parents[2].glob("*.py")
               if path.stem.startswith(("explanation", "pointing", "sanity", "seg"))]
    settings = set().union(*(commented_variables(path.read_text(encoding="utf-8")) for path in scripts))
    assert len(scripts) == 10
    assert settings - HARMLESS == {
        "baseline", "batch_size", "definition", "every_nth", "explained_class", "figures", "heatmaps_dir",
        "images_dir", "INTERPOLATION_STEPS", "ITERATION_STEPS", "per_class", "precision", "protocol",
        "quadrature", "seeds"}


def test_steps_that_are_left_to_the_model_are_those_of_the_definition():
    model = Scrambles()
    model.default_steps = {"paper": 10, "release": 5}

    def known(definition, steps):
        return identity(model, Settings(definition=definition, ITERATION_STEPS=steps), 3)
    assert known("paper", None) == known("paper", 10) and known("release", None) == known("release", 5)


def test_a_file_of_equal_size_that_was_replaced_has_another_signature(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("one")
    before = file_signatures([path, tmp_path / "none"])
    assert before == file_signatures([path, tmp_path / "none"]) and before[1].endswith("none missing")
    path.write_text("two")
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))
    assert file_signatures([path])[0] != before[0]
    assert digest(["a", "b"]) != digest(["ab"]) != digest(["a,b"])


def test_the_settings_that_change_no_number_are_these():
    """A new one is a run of its own unless somebody has thought of it."""
    assert HARMLESS == {"results_dir", "device", "num_workers", "max_images", "save_overlays", "operations",
                        "model_name", "fallback_model_name", "weights_path", "allow_random_weights",
                        "labels_file", "image_size", "in_chans", "FEATURE_LAYER_NUMBER", "dataset_root",
                        "chosen_dataset", "pics_file"}


def test_the_pictures_size_and_the_models_own_steps_are_part_of_an_identity():
    small, large = Scrambles(16), Scrambles(20)
    for model in (small, large):
        model.default_steps = {"paper": 10, "release": 5}
    how = Settings(definition="release", ITERATION_STEPS=None)
    assert identity(small, how, 3) != identity(large, how, 3)
    assert identity(small, how, 3)["ITERATION_STEPS"] == 5
    assert identity(small, how, 3) == identity(small, Settings(definition="release", ITERATION_STEPS=5), 3)


def test_other_columns_are_another_run(tmp_path):
    folders = set()
    for columns in ({"value": float}, {"value": int, "more": float}):
        folders.add(runner.Run(Numbers(3), tmp_path / "run", ["once"], columns, 3, {}, {}).folder)
    assert len(folders) == 2
