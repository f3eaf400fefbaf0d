"""Explains the pictures of a list, and writes a panel for each of them."""

import hashlib
import math
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from . import plots
from .choosing import explain_options
from .datasets.photographs import put_in_place
from .datasets.pics import Pic, read_pics
from .datasets.pictures import PictureError, mode_of, normalise, open_picture, squash
from .evaluation.identity import weights_of
from .explaining import explain_and_measure, predict
from .gallery import Gallery
from .integration import chunks
from .maps import is_degenerate, map_file, safe
from .models.model import Model
from .runs import Skips, pick_device, versions, whole_file, write_json
from .settings import Settings


def explain_pics(model: Model, settings: Settings) -> int:
    """Explain every picture of `settings.pics_file` and write its panel; returns the exit code.

    A few pictures are explained together, and then each is written at once. What cannot be used (a bad line,
    a missing or broken picture) is named and counted and makes the exit code 1; it stops nothing else.

    Raises:
        UserError: a setting is wrong, which is seen before the first picture is explained.
    """
    options = explain_options(model, settings)
    mode_of(model.channels)
    model.to(pick_device(settings.device))
    skips, seconds = Skips(), Counter()
    pics, problems = read_pics(settings.pics_file, settings.images_dir, model.classes, model.labels,
                               settings.every_nth, settings.per_class)
    for problem in problems:
        skips.add(problem)
    pics = pics[:settings.max_images]
    put_in_place(pic.path for pic in pics)
    panels = Panels(model, settings, options)

    at_once = max(1, settings.batch_size // options["steps"])       # so that their path points fill a batch
    with tqdm(total=len(pics), unit="picture", desc=model.label, disable=not pics) as progress:
        for part in chunks(len(pics), at_once):
            pictures = read_pictures(pics[part], model, skips)
            progress.update(len(pics[part]) - len(pictures))
            if not pictures:
                continue
            x = normalise(torch.stack(list(pictures.values())), model.mean, model.std).to(model.device)
            targets = torch.tensor([pic.target for pic in pictures])
            classes = predict(model, x) if settings.BY_MAX_CLASS else targets
            maps, distances = {}, {}
            for operation in settings.operations:        # one after the other, so that each can be timed
                progress.set_postfix_str(operation)
                start = time.perf_counter()
                of_batch, distance = explain_and_measure(model, x, classes, operation, **options)
                maps[operation], distances[operation] = of_batch.cpu(), distance.tolist()
                seconds[operation] += time.perf_counter() - start
            for i, (pic, raw) in enumerate(pictures.items()):
                panels.write(pic, raw, int(classes[i]), {name: values[i] for name, values in maps.items()},
                             {name: values[i] for name, values in distances.items()})
                progress.update()
    panels.gallery.write()
    if panels.written:
        print("seconds a picture:", ", ".join(f"{operation} {total / panels.written:.2g}"
                                              for operation, total in seconds.items()))
    counts = {"degenerate maps": panels.degenerate, "skipped": len(skips)}
    what = f"{panels.written} panel{'s' * (panels.written != 1)}"
    print("; ".join([f"{what} in {settings.results_dir}/, explained with {model.label}",
                     *(f"{count} {name}" for name, count in counts.items() if count)]))
    return int(len(skips) > 0)


def read_pictures(pics: list[Pic], model: Model, skips: Skips) -> dict[Pic, Tensor]:
    """The pictures that can be read, raw: [C, H, W] in [0, 1]. The others are skipped."""
    pictures = {}
    for pic in pics:
        try:
            pictures[pic] = squash(open_picture(pic.path, model.channels, upright=True), model.size)
        except PictureError as why:
            skips.add(f"{pic.line}: {why}")
    return pictures


class Panels:
    """Writes the settings of a run, and then the files of each picture; counts them and degenerate maps.

    options: of `iia.explain`.
    """

    def __init__(self, model: Model, settings: Settings, options: dict) -> None:
        self.model, self.settings, self.written, self.degenerate = model, settings, 0, 0
        self.gallery = Gallery(settings.results_dir, settings.tables_dir)
        self.recipe = {"model": model.label, "weights": weights_of(model),
                       "layer": model.cut(options["layer"]),
                       **{name: options.get(name) for name in ("steps", "quadrature", "baseline")},
                       "definition": settings.definition, "precision": settings.precision,
                       "picture size": list(model.size), "images_dir": settings.images_dir}
        write_json(Path(settings.results_dir) / f"{model.name}_settings.json",
                   {"settings": settings.values(), "model": model.label, "versions": versions()})

    def write(self, pic: Pic, raw: Tensor, number: int, maps: dict[str, Tensor],
              distances: dict[str, float]) -> None:
        """Write the panel of a picture, its row of the page and, if they are asked for, its maps and masks.

        Args:
            raw: the picture, [C, H, W] in [0, 1]. number: of the class that is explained.
            maps: by operation, each [H, W] in [0, 1]. distances: of the maps from their limits, or NaN.
        """
        model, settings = self.model, self.settings
        self.written += 1
        for operation in [name for name, heatmap in maps.items() if is_degenerate(heatmap[None])]:
            self.degenerate += 1
            tqdm.write(f"degenerate: the {operation} map of {pic.path.name} is constant or not finite; "
                       "it is shown as zeros", file=sys.stderr)
        class_name, picture = model.class_name(number), plots.rgb(raw)
        heatmaps = {operation: heatmap.float().numpy() for operation, heatmap in maps.items()}
        title = [f"{class_name} ({number})" if model.labels else class_name, model.label, pic.path.name]
        title += [settings.definition] if settings.definition != "paper" else []
        tiles = {"picture": picture} | {operation: plots.overlay(picture, heatmap)
                                        for operation, heatmap in heatmaps.items()}
        captions = {operation: f"± {distance:.2g} from its limit"
                    for operation, distance in distances.items() if not math.isnan(distance)}
        panel = f"{model.name}_{safe(class_name)}_{safe(pic.stem)}"
        plots.save_panel(Path(settings.results_dir) / f"{panel}.png", " · ".join(title), tiles, captions)
        pixels = hashlib.sha256((picture * 255).round().astype(np.uint8).tobytes()).hexdigest()[:16]
        facts = {"picture": pic.path.name, "pixels": pixels, "target": pic.target, "explained": number,
                 "class": class_name, **self.recipe}
        self.gallery.add(panel, facts, picture, heatmaps)
        for operation, heatmap in heatmaps.items() if settings.save_heatmaps_masks else ():
            path = map_file(settings.heatmaps_dir, pic.stem, operation, model.name)
            with whole_file(path) as temporary:
                np.save(temporary, heatmap)
            plots.save_picture(path.with_name(f"{path.stem}_mask.png"), picture * heatmap[..., None])
