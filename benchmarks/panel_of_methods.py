"""All methods on the three photographs that scikit-image ships: docs/methods.png, the panel of the README.

    python benchmarks/panel_of_methods.py

Prints the seconds that each method takes for a picture.
"""

import sys
import time
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import iia
from iia import plots
from iia.datasets.photographs import photograph
from iia.datasets.pictures import denormalise
from iia.runs import whole_file

MODEL = "efficientnet_lite0"
PHOTOGRAPHS = {"chelsea.png": 285, "coffee.png": 967, "rocket.jpg": 657}      # file and ImageNet class
TARGET = Path("docs") / "methods.png"
COLUMNS, TILE, GAP, HEAD = 8, 104, 4, 22                                      # the last three in pixels


def explain_all() -> dict[str, np.ndarray]:
    """The photographs and each method's overlays of them, by name: [3, 224, 224, 3] in [0, 1]."""
    model = iia.load_model(MODEL)
    x = iia.load_pictures([photograph(name) for name in PHOTOGRAPHS], model)
    pictures = denormalise(x, model.mean, model.std).permute(0, 2, 3, 1).numpy()
    columns = {"picture": pictures}
    for name, operation in iia.operations(model).items():
        operation.under("paper")                                              # imports its library
        start = time.perf_counter()
        maps = iia.explain(model, x, list(PHOTOGRAPHS.values()), name).numpy()
        print(f"{name:<16} {(time.perf_counter() - start) / len(x):6.2f} s", flush=True)
        columns[name] = np.stack([plots.overlay(*pair) for pair in zip(pictures, maps)])
    return columns


def draw(columns: dict[str, np.ndarray]) -> Image.Image:
    """A column for each name, a row for each photograph; as many bands of COLUMNS columns as it takes."""
    band = HEAD + len(PHOTOGRAPHS) * (TILE + GAP)
    bands = -(-len(columns) // COLUMNS)
    canvas = Image.new("RGB", (COLUMNS * (TILE + GAP) - GAP, bands * band - GAP), "white")
    pen = ImageDraw.Draw(canvas)
    font = ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf"), 12)
    for place, (name, tiles) in enumerate(columns.items()):
        top, left = (place // COLUMNS) * band, (place % COLUMNS) * (TILE + GAP)
        pen.text((left + TILE / 2, top + HEAD - 5), name, fill="black", font=font, anchor="ms")
        for row, tile in enumerate(tiles):
            tile = Image.fromarray((tile.clip(0, 1) * 255).round().astype(np.uint8))
            tile = tile.resize((TILE, TILE), Image.LANCZOS)
            canvas.paste(tile, (left, top + HEAD + row * (TILE + GAP)))
    return canvas


if __name__ == "__main__":
    picture = draw(explain_all())
    with whole_file(TARGET) as temporary:
        picture.save(temporary, optimize=True)
    print(f"{TARGET}: {TARGET.stat().st_size / 1000:.0f} kB")
