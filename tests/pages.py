"""Pages of maps: how the tests write them, and what they read of them."""

import runpy
from html.parser import HTMLParser
from pathlib import Path

import numpy as np

from iia import explanation_table, gallery, generator
from iia.settings import from_flags

ROOT = Path(__file__).resolve().parents[1]
PICTURE = np.random.default_rng(0).random((16, 20, 3))
HEAT = np.linspace(0, 1, 320).reshape(16, 20)


class Parsed(HTMLParser):
    """A page: `tags`, [(name, attributes)], and `text`, what a person reads of it."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.words, self.inside = [], [], ""
        self.feed(Path(path).read_text(encoding="utf-8"))
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.inside = tag

    def handle_data(self, data):
        self.words += [data] if self.inside not in ("script", "style") else []

    def of(self, tag, name):
        """An attribute of all tags that have it."""
        return [own[name] for found, own in self.tags if found == tag and name in own]


def facts(name="cat.png", **more):
    return {"picture": name, "pixels": "0", "target": 3, "explained": 3, "class": "cat", "model": "toy",
            "weights": "w", "layer": 6, "steps": 2, "definition": "paper", "precision": "fp32",
            "picture size": [16, 20], "images_dir": "."} | more


def add(folder, name="cat.png", operations=("iia",), heat=HEAT, **more):
    made = gallery.Gallery(folder, "nowhere")
    made.add(f"toy_{Path(name).stem}", facts(name, **more), PICTURE, dict.fromkeys(operations, heat))
    made.write()
    return made


def files(folder):
    return {path: path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


def shown(folder):
    """[(picture, class, network)] of the rows, and the maps' places."""
    parsed = Parsed(Path(folder) / "index.html")
    rows = [tuple(own[f"data-{name}"] for name in ("picture", "class", "network"))
            for tag, own in parsed.tags if tag == "tr" and "data-picture" in own]
    maps = [own["src"] for tag, own in parsed.tags if tag == "img" and own.get("class") == "map"]
    return rows, maps


def run(script, main, model, *flags):
    settings = from_flags(runpy.run_path(str(ROOT / script)), [
        "--pics_file=pics.txt", "--images_dir=.", "--device=cpu",
        *["--INTERPOLATION_STEPS=2"] * ("cnn" in script), *flags])
    return main(model, settings)


def explain(model, *flags):
    return run("cnn_saliency_map_generator.py", generator.explain_pics, model, *flags)


def measure(model, *flags):
    assert run("explanation_tests_cnn.py", explanation_table.table, model, "--num_workers=0",
               "--figures=POS,INS", *flags) == 0
    return max(Path("explanation_results").iterdir(), key=lambda path: path.stat().st_mtime_ns)
