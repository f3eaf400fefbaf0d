"""The sanity check as a user runs it, and its two measures against their equations."""

import json
import sys
import types

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import iia
from iia import sanity_table
from iia.datasets.pictures import load_pictures
from iia.errors import UserError
from iia.evaluation.runner import Run
from iia.methods import CNN_OPERATIONS, Operation
from iia.models.randomise import parts, randomised, rewrapped
from iia.settings import Settings
from tests.conftest import toy_vgg, toy_vit

STEPS = ["classifier.2", "classifier.0", "features.5", "features.2", "features.0"]


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Three pictures and a broken one; and an operation that is a picture's edges, whatever the network."""
    g = np.random.default_rng(0)
    for i in range(3):
        Image.fromarray(g.integers(256, size=(20, 20, 3), dtype=np.uint8)).save(tmp_path / f"p{i}.png")
    (tmp_path / "broken.png").write_text("nothing")
    (tmp_path / "list.txt").write_text("p0.png 0\nbroken.png 1\np1.png 1\np2.png 2\n")
    module = types.SimpleNamespace(edges=lambda model, x, y, options: x.abs().sum(1),
                                   flat=lambda model, x, y, options: x[:, 0] * 0)
    monkeypatch.setitem(sys.modules, "iia.of_a_test", module)
    for name in ("edges", "flat"):
        monkeypatch.setitem(CNN_OPERATIONS, name,
                            Operation(f"of_a_test.{name}", "a test's", "none", of_layer=False))
    return tmp_path


def chosen(place, **more):
    values = dict(operations=["gradcam", "edges"], seeds=2, definition="paper", device="cpu", batch_size=8,
                  images_dir=str(place), pics_file=str(place / "list.txt"), max_images=None, num_workers=0,
                  results_dir=str(place / "results"), FEATURE_LAYER_NUMBER="last", INTERPOLATION_STEPS=2)
    return Settings(**values | more)


def toy():
    return iia.wrap(toy_vgg(), name="toy", image_size=16)


def result(place):
    folder = max((place / "results").rglob("summary.json"), key=lambda path: path.stat().st_mtime_ns).parent
    return folder, json.loads((folder / "summary.json").read_text()), pd.read_csv(folder / "per_image.csv")


def test_table(place, capsys):
    """Every figure is that of the two maps; a method that ignores the network is warned of."""
    model = toy()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert sanity_table.table(model, chosen(place)) == 1                    # a picture was broken
    said, (folder, summary, rows) = capsys.readouterr(), result(place)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert "broken.png" in said.err and summary["skipped"]["count"] == 1 and summary["steps"] == STEPS
    assert len(rows.dropna(subset="step")) == 3 * 2 * 2 * 5 and (folder / "curves.png").stat().st_size > 5000

    pictures = load_pictures([place / f"p{i}.png" for i in range(3)], model)
    classes = iia.predict(model, pictures)
    original = iia.explain(model, pictures, classes, "gradcam")
    wanted = {step: [] for step in STEPS}
    for seed in range(2):
        for step, network in randomised(model, seed):
            found = iia.explain(rewrapped(network, model), pictures, classes, "gradcam")
            wanted[step].append([list(sanity_table.alike(*pair).values()) for pair in zip(original, found)])
            own = rows[(rows["operation"] == "gradcam") & (rows["seed"] == seed) & (rows["step"] == step)]
            both = pytest.approx(np.array(wanted[step][-1]), abs=1e-3, nan_ok=True)
            assert own[["spearman", "ssim"]].to_numpy() == both
            assert own["explained"].tolist() == classes.tolist()
    for step, values in wanted.items():
        means = np.nanmean(np.nanmean(np.array(values), 0), 0)
        for metric, mean in zip(("spearman", "ssim"), means):
            key = f"{metric} {step}"
            assert summary["figures"]["gradcam"][key] == pytest.approx(mean, abs=1e-3, nan_ok=True)
            low, high = summary["intervals"]["gradcam"][key]
            assert low - 1e-3 <= mean <= high + 1e-3 and summary["figures"]["edges"][key] == pytest.approx(1)
    assert summary["unchanged"] == ["edges"] and "edges !" in said.out
    assert "the maps of edges stay" in said.out
    assert summary["figures"]["gradcam"]["spearman features.0"] < 0.5 and "gradcam !" not in said.out


def test_a_map_that_is_constant_has_no_figure_and_is_counted(place, capsys):
    assert sanity_table.table(toy(), chosen(place, operations=["flat", "edges"], seeds=1)) == 1
    _, summary, _ = result(place)
    assert summary["degenerate"] == {"flat": 15, "edges": 0} and summary["figures"]["flat"] == {}
    assert "15 comparisons without a figure" in capsys.readouterr().out and summary["unchanged"] == ["edges"]


@pytest.mark.parametrize("flat, count", [(1, 5), (3, 1)])
def test_a_map_that_is_constant_before_or_behind_is_counted(flat, count, place, monkeypatch):
    """The first maps are the network's own, and the third those of its second step."""
    real, made = sanity_table.all_maps, []

    def all_maps(*given):
        made.append(real(*given))
        return {name: maps * (len(made) != flat) for name, maps in made[-1].items()}
    monkeypatch.setattr(sanity_table, "all_maps", all_maps)
    assert sanity_table.table(toy(), chosen(place, operations=["edges"], seeds=1, max_images=1)) == 0
    assert result(place)[1]["degenerate"] == {"edges": count}


@pytest.mark.parametrize("last, stay", [(0.51, ["gradcam"]), (0.49, [])])
def test_a_method_is_warned_of_where_its_maps_stay_to_the_last(place, monkeypatch, last, stay):
    step = iter([0.9, 0.9, 0.9, 0.9, last])
    monkeypatch.setattr(sanity_table, "alike", lambda *maps: {"spearman": next(step), "ssim": 0.9})
    sanity_table.table(toy(), chosen(place, operations=["gradcam"], seeds=1, max_images=1))
    assert result(place)[1]["unchanged"] == stay


def test_a_layer_of_a_number_is_the_same_one_whatever_the_weights(place, monkeypatch):
    """With other weights another layer may have its number, so that its name is handed on."""
    seen, real = set(), sanity_table.all_maps
    monkeypatch.setattr(sanity_table, "all_maps", lambda *given: seen.add(given[-1]["layer"]) or real(*given))
    how = chosen(place, operations=["gradcam"], seeds=1, max_images=1, FEATURE_LAYER_NUMBER=4)
    sanity_table.table(toy(), how)
    assert seen == {"features.3"}


def test_pictures_that_are_too_small_for_ssim_are_an_error(place):
    small = iia.wrap(toy_vgg(), name="toy", image_size=8)
    with pytest.raises(UserError, match="reads pictures of 8 x 8 pixels; SSIM takes at least 11"):
        sanity_table.table(small, chosen(place, FEATURE_LAYER_NUMBER=4))


def test_a_network_that_cannot_be_explained_is_skipped_and_named(place, monkeypatch, capsys):
    def overflowing(model, seed):
        for step, network in randomised(model, seed):
            if step == "features.5":
                network.features[5].weight.data.fill_(1e38)
            yield step, network
    monkeypatch.setattr(sanity_table, "randomised", overflowing)
    assert sanity_table.table(toy(), chosen(place, seeds=1, max_images=1)) == 1
    _, summary, rows = result(place)
    assert "p0.png gradcam: seed 0, features.5: " in capsys.readouterr().err
    assert summary["skipped"]["count"] == 1
    assert rows["step"][rows["skipped"].isna()].unique().tolist() == ["classifier.2", "classifier.0"]


def test_resume_after_a_kill(place, monkeypatch):
    save, saved = Run.save, []

    def once(self, batch, rows):
        saved.append(batch.number)
        if len(saved) == 2:
            raise KeyboardInterrupt
        save(self, batch, rows)
    how = chosen(place, batch_size=4, operations=["gradcam"], seeds=1)
    monkeypatch.setattr(Run, "save", once)
    with pytest.raises(KeyboardInterrupt):
        sanity_table.table(toy(), how)
    sanity_table.table(toy(), how)
    assert saved == [0, 1, 1, 2, 3]


def test_a_vit(place):
    model = iia.wrap(toy_vit(), name="toy", image_size=16)
    settings = chosen(place, operations=["gae", "iia"], seeds=1, ITERATION_STEPS=1)
    del settings.FEATURE_LAYER_NUMBER, settings.INTERPOLATION_STEPS
    assert sanity_table.table(model, settings) == 1
    _, summary, rows = result(place)
    assert summary["steps"] == list(parts(model)) and summary["steps"][-1] == "patch embedding"
    assert rows[rows["operation"] == "iia"]["spearman"].between(-1, 1).all()
    with pytest.raises(UserError, match="seeds is 0"):
        sanity_table.table(model, Settings(**vars(settings) | {"seeds": 0}))


# -------------------------------------------------------------------------------- the two measures

def test_spearman_is_pearsons_of_the_average_ranks():
    g = torch.Generator().manual_seed(0)
    one, other = torch.randint(0, 9, (12, 13), generator=g) / 8, torch.rand(12, 13, generator=g)
    ranks = [[sum(v < own for v in values) + (sum(v == own for v in values) + 1) / 2 for own in values]
             for values in (one.flatten().tolist(), other.flatten().tolist())]
    a, b = (np.array(each) - np.mean(each) for each in ranks)
    found = sanity_table.alike(one, other)["spearman"]
    assert found == pytest.approx((a * b).sum() / ((a * a).sum() * (b * b).sum()) ** 0.5)
    assert sanity_table.alike(one, 1 - one)["spearman"] == pytest.approx(-1)


def test_ssim_is_that_of_wang_et_al():
    """Means, variances and covariance under a Gaussian window of 11 x 11, σ = 1.5, K = 0.01, 0.03, at every
    place where the window fits."""
    g = torch.Generator().manual_seed(1)
    one, other = torch.rand(15, 17, generator=g).double(), torch.rand(15, 17, generator=g).double()
    other = 0.5 * one + 0.5 * other
    bell = np.exp(-np.arange(-5, 6) ** 2 / (2 * 1.5 ** 2))
    window, found = np.outer(bell, bell) / bell.sum() ** 2, []
    for row in range(5):
        for column in range(7):
            x, y = (values.numpy()[row:row + 11, column:column + 11] for values in (one, other))
            mx, my = (window * x).sum(), (window * y).sum()
            vx, vy = (window * x * x).sum() - mx ** 2, (window * y * y).sum() - my ** 2
            both = (window * x * y).sum() - mx * my
            alike = (2 * mx * my + 1e-4) * (2 * both + 9e-4)
            found.append(alike / ((mx ** 2 + my ** 2 + 1e-4) * (vx + vy + 9e-4)))
    assert sanity_table.alike(one, other)["ssim"] == pytest.approx(np.mean(found), abs=1e-6)
    assert sanity_table.alike(one, one) == {"spearman": pytest.approx(1), "ssim": pytest.approx(1)}


def test_a_list_of_other_files_of_the_same_names_is_another_run(place):
    for folder in ("one", "other"):
        (place / folder).mkdir()
        (place / "p0.png").rename(place / folder / "p0.png")
        (place / "list.txt").write_text(f"{folder}/p0.png 0\n")
        sanity_table.table(toy(), chosen(place, operations=["edges"], seeds=1))
        (place / "p1.png").replace(place / "p0.png")
        (place / "p2.png").replace(place / "p1.png") if folder == "one" else None
    assert len(list((place / "results").iterdir())) == 2
