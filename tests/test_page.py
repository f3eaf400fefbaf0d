"""The page of a folder of maps: what is on it, what is foreign, and who may write to it at once."""

import os
import signal
import time
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from PIL import Image

from iia import gallery

from .pages import HEAT, PICTURE, Parsed, add, facts, files, shown


def test_runs_add_to_the_page_and_the_same_run_leaves_the_same_bytes(tmp_path):
    add(tmp_path)
    once = files(tmp_path)
    add(tmp_path)
    assert files(tmp_path) == once
    add(tmp_path, operations=["gradcam"])                                    # a column
    add(tmp_path, "dog.png")                                                 # a row
    add(tmp_path, model="other")                                             # a row, as of any other facts
    add(tmp_path, steps=5)
    rows, maps = shown(tmp_path)
    assert rows == [("cat.png", "cat", "other"), *[("cat.png", "cat", "toy")] * 2, ("dog.png", "cat", "toy")]
    assert sorted(Path(path).name for path in maps) == ["gradcam.png", *["iia.png"] * 4]
    assert all((tmp_path / path).exists() for path in Parsed(tmp_path / "index.html").of("img", "src"))
    now = files(tmp_path)
    assert all(now[path] == content for path, content in once.items() if path.name != "index.html")
    (tmp_path / "index.html").unlink()
    gallery.Gallery(tmp_path, "nowhere").write()                                # made of the files alone
    assert files(tmp_path) == now


def test_what_is_explained_otherwise_is_measured_by_itself():
    """A table's figures stand at the maps of its own recipe alone."""
    for other in ({"weights": "x"}, {"layer": 5}, {"steps": 3}, {"quadrature": "gauss"}, {"baseline": "zero"},
                  {"precision": "bf16"}, {"picture size": [20, 16]}, {"images_dir": "elsewhere"}):
        assert gallery.recipe(facts(**other)) != gallery.recipe(facts()), other
    for other in {"definition": "release"}, {"picture": "dog.png"}, {"target": 4}, {"explained": 4}:
        assert gallery.key_of(facts(**other), "iia") != gallery.key_of(facts(), "iia"), other


def test_a_maps_file_is_the_map_in_256_steps_and_jet_colours(tmp_path):
    add(tmp_path)
    file, = tmp_path.glob("page/*/iia.png")
    np.testing.assert_allclose(np.asarray(Image.open(file)) / 256, HEAT, atol=1 / 255)
    jet = matplotlib.colormaps["jet"](HEAT)[..., :3]
    np.testing.assert_allclose(np.asarray(Image.open(file).convert("RGB")) / 255, jet, atol=1 / 255)
    size = [own for tag, own in Parsed(tmp_path / "index.html").tags if own.get("class") == "map"][0]
    assert (size["width"], size["height"], size["loading"]) == ("20", "16", "lazy")


def test_names_are_text_whatever_is_in_them(tmp_path):
    odd = '<script>alert("1")</script>&amp;\'.png'
    add(tmp_path, odd, **{"class": '<img src=x onerror="alert(2)">', "model": "</script>\ud800"})
    parsed = Parsed(tmp_path / "index.html")
    assert [tag for tag, _ in parsed.tags].count("script") == 1 and "x" not in parsed.of("img", "src")
    assert odd in parsed.text and '<img src=x onerror="alert(2)"> (3)' in parsed.text
    assert "</script>" in shown(tmp_path)[0][0][2]
    assert f'iia for <img src=x onerror="alert(2)"> in {odd}' in parsed.of("img", "alt")


def test_a_map_that_says_nothing_is_marked_and_another_class_than_the_target_is_told(tmp_path):
    add(tmp_path, heat=0 * HEAT, explained=4)
    text = Parsed(tmp_path / "index.html").text
    assert "constant or not finite" in text and "cat (4), target 3" in text
    add(tmp_path)
    assert Parsed(tmp_path / "index.html").text.count("constant or not finite") == 1


def test_nothing_is_fetched_from_elsewhere(tmp_path):
    add(tmp_path)
    text = (tmp_path / "index.html").read_text()
    assert "http" not in text and "//" not in text.replace("// ", "") and "@import" not in text
    parsed = Parsed(tmp_path / "index.html")
    assert not parsed.of("script", "src") and not [tag for tag, _ in parsed.tags if tag == "link"]
    assert all(own.get("alt") is not None for tag, own in parsed.tags if tag == "img")


def test_what_is_broken_or_foreign_is_named_and_stays(tmp_path, capsys):
    for name in ("cat.png", "dog.png", "owl.png", "elk.png"):
        add(tmp_path, name)
    cat, dog, elk, owl = sorted((tmp_path / "page").iterdir())
    wrong = {tmp_path / "page/notes.txt": b"mine", tmp_path / "page/album/me.png": b"mine",
             cat / "row.json": b'{"picture": "cat.png"',
             dog / "iia.png": (dog / "iia.png").read_bytes()[:200],
             owl / "gradcam.png": b"mine", elk / "picture.jpg": b""}
    for path, content in wrong.items():
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    Image.new("RGB", (9, 9)).save(owl / "ig.png")                            # a picture, but none of ours
    kept = (owl / "ig.png").read_bytes()
    for name in ("cat.png", "dog.png", "elk.png"):
        add(tmp_path, name)
    add(tmp_path, "owl.png", ["iia", "gradcam", "ig"])
    said = capsys.readouterr().err
    for path in (*wrong, owl / "ig.png"):
        named = path if path.parent != tmp_path / "page/album" and path.name != "row.json" else path.parent
        assert f"note: {named} " in said, path
    assert all(path.read_bytes() == content for path, content in wrong.items())
    assert (owl / "ig.png").read_bytes() == kept
    rows, maps = shown(tmp_path)
    assert [row[0] for row in rows] == ["dog.png", "owl.png"] and len(maps) == 1


@pytest.mark.parametrize("make", [lambda path: path.write_text("my own page"), lambda path: path.mkdir(),
                                  lambda path: path.write_bytes(b"")])
def test_someone_elses_index_is_named_and_stays_but_the_rows_are_kept(make, tmp_path, capsys):
    make(tmp_path / "index.html")
    before = files(tmp_path)
    add(tmp_path)
    assert "index.html is no page of these scripts" in capsys.readouterr().err
    assert files(tmp_path).items() >= before.items()
    (tmp_path / "index.html").rename(tmp_path / "mine")
    gallery.Gallery(tmp_path, "nowhere").write()
    assert len(shown(tmp_path)[0]) == 1


def test_a_row_that_comes_while_another_process_writes_the_page_is_not_lost(tmp_path, monkeypatch):
    first, write_page = add(tmp_path), gallery.write_page

    def another_comes_between(*given, **values):
        monkeypatch.setattr(gallery, "write_page", write_page)
        add(tmp_path, "dog.png")                             # adds its row and writes the page
        write_page(*given, **values)                         # of the rows seen before
    monkeypatch.setattr(gallery, "write_page", another_comes_between)
    first.write()
    assert [row[0] for row in shown(tmp_path)[0]] == ["cat.png", "dog.png"]


def in_a_process(folder, names):
    """Add rows in a process of its own; returns its number."""
    if not (child := os.fork()):
        try:
            made = gallery.Gallery(folder, "nowhere")
            for name in names:
                made.add(f"toy_{name}", facts(name), PICTURE, {"iia": HEAT, "gradcam": HEAT})
            made.write()
        finally:
            os._exit(0)
    return child


needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked")


@needs_fork
def test_two_processes_at_once(tmp_path):
    for child in [in_a_process(tmp_path, [f"{one}{k}" for k in range(4)] + ["both"]) for one in "ab"]:
        os.waitpid(child, 0)
    rows, maps = shown(tmp_path)
    assert [row[0] for row in rows] == sorted([*(f"{one}{k}" for one in "ab" for k in range(4)), "both"])
    assert len(maps) == 2 * 9


@needs_fork
def test_a_kill_leaves_a_whole_page_and_the_next_run_ends_as_an_undisturbed_one(tmp_path, capsys):
    names = [f"p{k}" for k in range(8)]
    os.waitpid(in_a_process(tmp_path / "undisturbed", names), 0)
    for k in range(4):
        child = in_a_process(tmp_path / "killed", names)
        time.sleep(0.02 + 0.03 * k)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        if (tmp_path / "killed/index.html").exists():
            assert (tmp_path / "killed/index.html").read_text().endswith("</html>")
    os.waitpid(in_a_process(tmp_path / "killed", names), 0)
    killed, undisturbed = ({path.relative_to(tmp_path / name): content for path, content in
                            files(tmp_path / name).items()} for name in ("killed", "undisturbed"))
    assert killed == undisturbed and len(killed) == 4 * 8 + 1


def test_rows_are_sorted_by_picture_then_class_then_network(tmp_path):
    for name, label, network in (("b.png", "ant", "x"), ("a.png", "bee", "y"), ("a.png", "cat", "x"),
                                 ("a.png", "bee", "x")):
        add(tmp_path, name, **{"class": label, "model": network})
    assert shown(tmp_path)[0] == [("a.png", "bee", "x"), ("a.png", "bee", "y"), ("a.png", "cat", "x"),
                                  ("b.png", "ant", "x")]


def test_what_is_not_as_usual_is_said_of_a_row(tmp_path):
    usual = {"quadrature": "riemann", "baseline": "spatial-minimum", "precision": "fp32"}
    add(tmp_path, "a.png", **usual)
    add(tmp_path, "b.png", quadrature="gauss", baseline="zero", precision="bf16", definition="release")
    text = Parsed(tmp_path / "index.html").text
    assert "release, gauss, zero, bf16" in text and not any(own in text for own in usual.values())


def test_a_long_run_writes_its_page_now_and_then(tmp_path, monkeypatch):
    written, write = [], gallery.Gallery.write
    monkeypatch.setattr(gallery.Gallery, "write", lambda self: written.append(self.added) or write(self))
    made = gallery.Gallery(tmp_path, "nowhere")
    for k in range(12):
        made.add(f"toy_{k}", facts(f"{k}.png"), PICTURE, {"iia": HEAT})
    assert written == [1, 2, 3, 4, 5, 7, 9, 12]
