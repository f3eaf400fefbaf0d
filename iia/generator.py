"""The story that both saliency map scripts tell: a list of pictures in, panels out."""

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from . import plots, settings
from .datasets.pics import Pic, read_pics
from .datasets.photographs import put_in_place
from .datasets.pictures import PictureError, mode_of, normalise, open_picture, squash
from .errors import UserError, check_choice
from .explaining import explain, operations, predict
from .maps import is_degenerate, map_file
from .methods import DEFINITIONS
from .runs import Skips, pick_device, versions, whole_file


def explain_pics(model, chosen: settings.Settings, layer: int | str, steps: int) -> int:
    """Explain every picture of `chosen.pics_file` and write its panel; returns the exit code.

    Pictures are explained a few at a time, and a picture's files are written as soon as it is done.
    What cannot be used (a bad line, a missing or broken picture) is named, counted and makes the exit
    code 1; it stops nothing else.
    """
    check(model, chosen, layer, steps)
    model.to(pick_device(chosen.device))
    skips, degenerate, written = Skips(), 0, 0
    pics, problems = read_pics(chosen.pics_file, chosen.images_dir, model.classes, model.labels)
    pics, twins = drop_name_clashes(pics)
    for problem in problems + twins:
        skips.add(problem)
    pics = pics[:chosen.max_images]
    put_in_place(pic.path for pic in pics)
    settings.save(Path(chosen.results_dir) / f"{model.name}_settings.json", chosen, model=model.label, versions=versions())

    together = max(1, chosen.batch_size // steps)        # so that a batch of pictures fills the rows
    with tqdm(total=len(pics), unit="picture", desc=model.label, disable=not pics) as progress:
        for batch, raw in picture_batches(pics, together, model, skips, progress):
            x = normalise(raw, model.mean, model.std).to(model.device)
            classes = predict(model, x) if chosen.BY_MAX_CLASS else torch.tensor([pic.target for pic in batch]).to(x.device)
            maps, seconds = explain_batch(model, chosen, x, classes, layer, steps, progress)
            for operation, own in maps.items():
                for pic, flat in zip(batch, is_degenerate(own)):
                    if flat:
                        degenerate += 1
                        tqdm.write(f"degenerate: the {operation} map of {pic.path.name} is constant or not finite; it is "
                                   "shown as zeros", file=sys.stderr)
            for i, pic in enumerate(batch):
                write_results(model, chosen, pic, plots.rgb(raw[i]), int(classes[i]),
                              {operation: values[i].float().numpy() for operation, values in maps.items()}, seconds)
                written += 1
                progress.update()
    print(f"{written} panels in {chosen.results_dir}/, explained with {model.label}"
          + (f"; {degenerate} degenerate maps" if degenerate else "") + (f"; {len(skips)} skipped" if len(skips) else ""))
    return 1 if len(skips) else 0


def drop_name_clashes(pics: list[Pic]) -> tuple[list[Pic], list[str]]:
    """The pictures less those whose files would overwrite those of another picture, and what is wrong with these."""
    first, twins = {}, []
    for pic in pics:
        other = first.setdefault((pic.stem, pic.target), pic)
        if other.path != pic.path:
            twins.append(f"{pic.line}: the files of {pic.path.name} would overwrite those of {other.path.name}; rename one")
    return [pic for pic in pics if first[pic.stem, pic.target].path == pic.path], twins


def check(model, chosen: settings.Settings, layer: int | str, steps: int) -> None:
    """Find what is wrong with the settings before the first picture is explained."""
    if not chosen.operations:
        raise UserError(f"operations is empty. Allowed: {', '.join(operations(model))}.")
    for operation in chosen.operations:
        check_choice("operation", operation, operations(model))
    check_choice("definition", chosen.definition, DEFINITIONS)
    for operation in chosen.operations:
        operations(model)[operation].under(chosen.definition)      # imports its library, before anything is timed
    model.cut(layer)
    mode_of(model.channels)
    for name, value in {"batch_size": chosen.batch_size, "steps": steps, "max_images": chosen.max_images}.items():
        if value is not None and value < 1:
            raise UserError(f"{name} is {value}; it is at least 1.")


def explain_batch(model, chosen: settings.Settings, x: torch.Tensor, classes: torch.Tensor, layer: int | str, steps: int,
                  progress: tqdm) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
    """By operation: the maps of the pictures x, [B, H, W] on the CPU, and the seconds for a picture.

    Nothing is shared between operations: the panel shows what each of them takes by itself.
    """
    maps, seconds = {}, {}
    for operation in chosen.operations:
        progress.set_postfix_str(operation)
        start = time.perf_counter()
        maps[operation] = explain(model, x, classes, operation, layer=layer, steps=steps,
                                  definition=chosen.definition, batch_size=chosen.batch_size).cpu()
        seconds[operation] = (time.perf_counter() - start) / len(x)
    return maps, seconds


def picture_batches(pics: list[Pic], size: int, model, skips: Skips,
                    progress: tqdm) -> Iterator[tuple[list[Pic], torch.Tensor]]:
    """The pictures that can be read, `size` at a time: (pics, raw pictures [B, C, H, W] in [0, 1])."""
    batch, pictures = [], []
    for pic in pics:
        try:
            pictures.append(squash(open_picture(pic.path, model.channels), model.size))
            batch.append(pic)
        except PictureError as why:
            skips.add(f"{pic.line}: {why}")
            progress.update()
        if len(batch) == size or (batch and pic is pics[-1]):
            yield batch, torch.stack(pictures)
            batch, pictures = [], []


def write_results(model, chosen: settings.Settings, pic: Pic, picture: np.ndarray, target: int,
                  maps: dict[str, np.ndarray], seconds: dict[str, float]) -> None:
    """A picture's panel and, where they are asked for, its maps and mask pictures."""
    name = model.class_name(target)
    tiles = {"picture": picture}
    tiles |= {f"{operation}\n{seconds[operation]:.2g} s": plots.overlay(picture, heatmap) for operation, heatmap in maps.items()}
    title = f"{name} ({target})" if model.labels else name
    title += f" · {model.label} · {pic.path.name}"
    if chosen.definition != "paper":
        title += f" · {chosen.definition}"
    plots.save_panel(Path(chosen.results_dir) / f"{model.name}_{plots.safe(name)}_{plots.safe(pic.stem)}.png", title, tiles)
    if chosen.save_heatmaps_masks:
        for operation, heatmap in maps.items():
            path = map_file(chosen.heatmaps_dir, pic.stem, operation, model.name)
            with whole_file(path) as temporary:
                np.save(temporary, heatmap.astype(np.float32))
            plots.save_mask(path.with_name(f"{path.stem}_mask.png"), picture, heatmap)
