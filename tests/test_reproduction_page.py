"""What the command for all tables says of a table: its time, its settings, and whether all went well."""

import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest

from iia import explanation_table, reproduction, reproduction_page
from iia.reproduction_page import Result
from iia.settings import Settings, from_flags

ROOT = Path(__file__).parents[1]


def summary(skipped=0, **settings):
    return {"figures": {"iia": {"POS": 0.5}}, "intervals": {"iia": {"POS": [0.25, 0.75]}}, "pictures": 2,
            "skipped": {"count": skipped}, "degenerate": {"iia": 0}, "settings": settings,
            "identity": {"INTERPOLATION_STEPS": 7, "layer": 9, "weights": "abc"}, "base accuracy": 0.5,
            "folder": Path("reproduction/explanation-cnn/table")}


def reproduce(toy, monkeypatch, skipped=0):
    """The command for one table of a network that is there."""
    monkeypatch.setattr(reproduction, "network_or_stand_in", lambda name, device: (toy, ""))
    monkeypatch.setattr(explanation_table, "tested", lambda model, settings: summary(skipped))
    flags = ["--networks=toy", "--tables=explanation-cnn", "--images_dir=.", "--pics_file=pics.txt",
             "--device=cpu"]
    return reproduction.reproduce(from_flags(runpy.run_path(str(ROOT / "reproduce.py")), flags), ROOT)


@pytest.mark.parametrize("skipped", [0, 1])
def test_the_command_fails_where_a_picture_was_skipped(skipped, toy, monkeypatch):
    assert reproduce(toy, monkeypatch, skipped) == skipped
    text = Path("reproduction/reproduction.md").read_text()
    assert f"## explanation-cnn, toy\n\nbase accuracy 50.0 %, 2 pictures, {skipped} skipped" in text


@pytest.mark.parametrize("table, shown", [
    ("segmentation voc", "50.00 [25.00, 75.00]"), ("pointing coco", "50.00 [25.00, 75.00]"),
    ("explanation-vit", "0.50 [0.25, 0.75]"), ("ablations zero", "0.50 [0.25, 0.75]"),
    ("sanity", "0.50 [0.25, 0.75]")])
def test_fractions_are_shown_in_percent_and_others_as_they_are(table, shown):
    assert Result(table, "toy", summary()).cell("iia", "POS") == shown


def test_a_section_says_what_its_figures_hang_on():
    own = {"protocol": "bee", "explained_class": "predicted", "baseline": "zero", "seeds": 3,
           "definition": "release", "device": "cpu"}
    _, said, _ = reproduction_page.section(Result("sanity", "toy", summary(4, **own)), Path("reproduction"))
    assert said == ("base accuracy 50.0 %, 2 pictures, 4 skipped, 0 degenerate maps, layer 9, n 7, "
                    "protocol bee, explained_class predicted, baseline zero, seeds 3, definition release, "
                    "weights abc; in `explanation-cnn/table/`")


def test_the_time_of_a_picture_is_that_of_all_seeds():
    asked = []

    def make(model, settings):
        asked.append(settings.values())
        return {"seconds": 6, "pictures": 3}
    settings = Settings(seeds=5, INTERPOLATION_STEPS=10, num_workers=2, max_images=None, results_dir="here")
    assert reproduction.timed(None, settings, make, 3) == 10
    assert [(own["seeds"], own["INTERPOLATION_STEPS"], own["max_images"], own["num_workers"])
            for own in asked] == [(1, 1, 1, 0), (1, 10, 3, 0)]                # the first warms up
    assert not any(own["results_dir"].startswith("here") for own in asked)
    del settings.seeds
    assert reproduction.timed(None, settings, make, 3) == 2


def test_of_several_processes_the_first_writes_the_page(toy, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    for number in ("1", "0"):
        assert not Path("reproduction").exists()
        monkeypatch.setenv("RANK", number)
        reproduce(toy, monkeypatch)
    assert Path("reproduction/reproduction.md").exists()


@pytest.mark.parametrize("asked, found, timed", [(2, 50, 2), (100, 50, 8), (100, 3, 3)])
def test_a_few_pictures_are_timed_for_all(asked, found, timed, monkeypatch, capsys):
    counts = []
    monkeypatch.setattr(reproduction, "share", lambda job: (None, found))
    monkeypatch.setattr(reproduction, "timed", lambda *given: counts.append(given[-1]) or 36)
    job = reproduction.Job("segmentation imagenet", None, None, None)
    model = SimpleNamespace(name="convnext_base", device="cpu")
    assert reproduction.plan(model, job, asked) == 36 * found and counts == [timed]
    said = capsys.readouterr().out
    assert "the paper: iia-triple mF1 42.32, lift-cam mF1 35.91" in said
    assert f"{found} pictures found: {36 * found / 3600:.3g} hours on cpu, 36.00 s a picture" in said
