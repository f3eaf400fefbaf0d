"""Explains the pictures of a list, and writes a panel for each."""

import hashlib
import math
import sys
import time
from collections import Counter
from dataclasses import dataclass
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


@dataclass
class Result:
    """A picture and the maps of a class.

    raw: the picture, [C, H, W] in [0, 1]. number: the class's. maps: by operation, [H, W] in [0, 1].
    distances: of the maps from their limit, or NaN.
    """
    pic: Pic
    raw: Tensor
    number: int
    maps: dict[str, Tensor]
    distances: dict[str, float]


def explain_pics(model: Model, settings: Settings) -> int:
    """Explain every picture of `settings.pics_file` and write its panel; returns the exit code.

    Pictures are explained a few at a time, and a picture's files are written as soon as it is done.
    What cannot be used (a bad line, a missing or broken picture) is named, counted and makes the exit
    code 1; it stops nothing else.

    Raises:
        UserError: a setting is wrong, which is seen before the first picture is explained.
    """
    options = explain_options(model, settings)
    mode_of(model.channels)
    model.to(pick_device(settings.device))
    skips, degenerate, written, seconds = Skips(), 0, 0, Counter()
    pics, problems = read_pics(settings.pics_file, settings.images_dir, model.classes, model.labels,
                               settings.every_nth, settings.per_class)
    for problem in problems:
        skips.add(problem)
    pics = pics[:settings.max_images]
    put_in_place(pic.path for pic in pics)
    write_json(Path(settings.results_dir) / f"{model.name}_settings.json",
               {"settings": settings.values(), "model": model.label, "versions": versions()})

    gallery = Gallery(settings.results_dir, settings.tables_dir)
    how = {"model": model.label, "weights": weights_of(model), "layer": model.cut(options["layer"]),
           "steps": options["steps"], "quadrature": options["quadrature"],
           "baseline": options.get("baseline"), "definition": settings.definition,
           "precision": settings.precision, "picture size": list(model.size),
           "images_dir": settings.images_dir}

    together = max(1, settings.batch_size // options["steps"])      # so that their path points fill a batch
    with tqdm(total=len(pics), unit="picture", desc=model.label, disable=not pics) as progress:
        for part in chunks(len(pics), together):
            batch = read_pictures(pics[part], model, skips)
            progress.update(len(pics[part]) - len(batch))
            if not batch:
                continue
            raw = torch.stack(list(batch.values()))
            x = normalise(raw, model.mean, model.std).to(model.device)
            targets = torch.tensor([pic.target for pic in batch])
            classes = predict(model, x) if settings.BY_MAX_CLASS else targets
            maps, distances = {}, {}
            for operation in settings.operations:        # each by itself, so that its time is its own
                progress.set_postfix_str(operation)
                start = time.perf_counter()
                found, away = explain_and_measure(model, x, classes, operation, **options)
                maps[operation], distances[operation] = found.cpu(), away.tolist()
                seconds[operation] += time.perf_counter() - start
            for i, pic in enumerate(batch):
                own, away = ({operation: values[i] for operation, values in every.items()}
                             for every in (maps, distances))
                degenerate += warn_of_degenerate(pic, own)
                result = Result(pic, raw[i], int(classes[i]), own, away)
                write_results(model, settings, result, gallery, how)
                written += 1
                progress.update()
    gallery.write()
    if written:
        print("seconds a picture:", ", ".join(f"{name} {all / written:.2g}" for name, all in seconds.items()))
    said = [f"{degenerate} degenerate maps"] * (degenerate > 0) + [f"{len(skips)} skipped"] * (len(skips) > 0)
    print("; ".join([f"{written} panels in {settings.results_dir}/, explained with {model.label}", *said]))
    return int(len(skips) > 0)


def read_pictures(pics: list[Pic], model: Model, skips: Skips) -> dict[Pic, Tensor]:
    """The pictures that can be read, raw: [C, H, W] in [0, 1]. The others are skipped."""
    found = {}
    for pic in pics:
        try:
            found[pic] = squash(open_picture(pic.path, model.channels, upright=True), model.size)
        except PictureError as why:
            skips.add(f"{pic.line}: {why}")
    return found


def warn_of_degenerate(pic: Pic, maps: dict[str, Tensor]) -> int:
    """Name the operations whose map of a picture says nothing; returns how many there are."""
    flat = [operation for operation, values in maps.items() if is_degenerate(values[None])]
    for operation in flat:
        tqdm.write(f"degenerate: the {operation} map of {pic.path.name} is constant or not finite; "
                   "it is shown as zeros", file=sys.stderr)
    return len(flat)


def write_results(model: Model, settings: Settings, result: Result, gallery: Gallery,
                  how: dict) -> None:
    """Write a picture's panel, its row of the page and, if they are asked for, its maps and mask pictures.

    how: what the page says of how the maps were made.
    """
    pic, number = result.pic, result.number
    name, picture = model.class_name(number), plots.rgb(result.raw)
    maps = {operation: values.float().numpy() for operation, values in result.maps.items()}
    title = [f"{name} ({number})" if model.labels else name, model.label, pic.path.name]
    title += [settings.definition] if settings.definition != "paper" else []
    tiles = {"picture": picture} | {operation: plots.overlay(picture, own) for operation, own in maps.items()}
    below = {operation: f"± {away:.2g} from its limit"
             for operation, away in result.distances.items() if not math.isnan(away)}
    panel = f"{model.name}_{safe(name)}_{safe(pic.stem)}"
    plots.save_panel(Path(settings.results_dir) / f"{panel}.png", " · ".join(title), tiles, below)
    pixels = hashlib.sha256((picture * 255).round().astype(np.uint8).tobytes()).hexdigest()[:16]
    facts = {"picture": pic.path.name, "pixels": pixels, "target": pic.target, "explained": number,
             "class": name, **how}
    gallery.add(panel, facts, picture, maps)
    for operation, own in maps.items() if settings.save_heatmaps_masks else ():
        path = map_file(settings.heatmaps_dir, pic.stem, operation, model.name)
        with whole_file(path) as temporary:
            np.save(temporary, own)
        plots.save_picture(path.with_name(f"{path.stem}_mask.png"), picture * own[..., None])
