"""Every table of the paper by one command: what each needs and costs, or the tables and a page of them
(METHOD.md, section 8)."""

import contextlib
import os
import runpy
import tempfile
import textwrap
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from . import explanation_table, pointing_table, sanity_table, segmentation_table
from .choosing import check_numbers
from .datasets.pics import PicsDataset
from .errors import UserError, check_choice, first_line
from .integration import BASELINES
from .models import ViT
from .models.loading import load_model
from .models.weights import WeightsMissing
from .reproduction_page import PAPER, Result, write_page
from .runs import pick_device, rank
from .settings import Settings, from_flags

TABLES = ("explanation-cnn", "explanation-vit", "segmentation", "ablations", "sanity", "pointing")
ABLATIONS = {"cnn": ["iia", "iia-triple", "iia-previous", "iia-ablation-im", "iia-ablation-ac"],
             "vit": ["iia", "iia-triple", "iia-previous", "ablation-image", "ablation-attention"]}
MOST_TIMED, HOUR = 8, 3600                       # pictures; seconds
ELSEWHERE = "another process makes it; start the command again when that has ended"


@dataclass(frozen=True)
class Job:
    """One table of one network.

    name: "<table>", or "<table> <data set or baseline>". settings: those of its script, with those of
    reproduce.py; max_images is the largest number of pictures. data: () -> its data set.
    make: (model, settings) -> the summary, as `Run.write` returns it.
    """
    name: str
    settings: Settings
    data: Callable
    make: Callable


def reproduce(settings: Settings, scripts: Path) -> int:
    """Make all tables of all networks that can be made, or say what they need (`settings.dry_run`).

    Writes {results_dir}/reproduction.md after each table. Returns 1 where something was not made or skipped.

    Args:
        scripts: the folder of the scripts, whose settings count where reproduce.py has none.

    Raises:
        UserError: a setting of reproduce.py is wrong. What else goes wrong ends one table.
    """
    for table in settings.tables:
        check_choice("table", table, TABLES)
    check_numbers(settings)
    device, path = pick_device(settings.device), Path(settings.results_dir) / "reproduction.md"
    results, reasons, hours, writes = [], set(), 0.0, not settings.dry_run and rank() == 0
    for network in dict.fromkeys(settings.networks):
        loaded, why = attempt(partial(network_or_stand_in, network, device))
        model, missing = loaded or (None, why)
        print(f"\n{network}: {missing or 'weights found'}", flush=True)
        if model is None:
            results.append(Result("all tables", network, None, why))
            continue
        for job in jobs(model, settings, scripts):
            summary, why = None, missing
            if settings.dry_run:
                seconds, why = attempt(partial(plan, model, job, settings.timed_pictures))
                hours += (seconds or 0) / HOUR
            elif not missing:
                print(f"\n{job.name}, {network}", flush=True)
                summary, why = attempt(lambda: job.make(model, share(job)[0]))
                why = "" if summary else why or ELSEWHERE
            if why and why != missing:
                shown = f"{why.splitlines()[0]} (as above)" if why in reasons else why
                print(textwrap.indent(f"cannot be made: {shown}", "    "), flush=True)
                reasons.add(why)
            results.append(Result(job.name, model.name, summary, why))
            if writes:
                write_page(path, results, done=False)
    for table in settings.tables:
        if not any(result.table.split()[0] in (table, "all") for result in results):
            results.append(Result(table, "no network", None, "none of `networks` is of its kind"))
            print(f"\n{table}: {results[-1].why}")
    if settings.dry_run:
        print(f"\nall that was timed: {hours:.3g} hours on {device}")
        return 0
    if writes:
        write_page(path, results, done=True)
        print(f"\nours beside the paper's: {path}")
    return int(any(not result.summary or result.summary["skipped"]["count"] for result in results))


def attempt(work: Callable) -> tuple:
    """(what `work` returns, ""), or (None, why it failed), so that one failing table does not stop the
    others."""
    try:
        return work(), ""
    except UserError as why:
        return None, str(why)
    except Exception as why:
        traceback.print_exc()                # a defect, which no user can mend
        return None, f"{type(why).__name__}: {first_line(why)}"


def network_or_stand_in(name: str, device: torch.device | str = "cpu") -> tuple:
    """(the network, ""). Where its weights cannot be had, (one with random weights, what is missing): that
    one tells which tables there are and how long they take."""
    try:
        return load_model(name).to(device), ""
    except WeightsMissing as why:
        stand_in = load_model(name, allow_random_weights=True).to(device)
        return stand_in, f"no weights: {why.reason}.\n{why.remedy}"


def jobs(model, settings: Settings, scripts: Path) -> Iterator[Job]:
    """The tables of a network that are asked for, by the scripts that make them and their settings."""
    network, asked = "vit" if isinstance(model, ViT) else "cnn", settings.values()
    pics = partial(PicsDataset, settings.pics_file, settings.images_dir, model)

    def by_dataset(datasets: dict) -> Iterator[tuple]:
        """The name of each data set, the data set, and the settings that choose it."""
        for name, dataset in datasets.items():
            root = asked[f"{name}_root"]
            yield (name, partial(dataset, root, model.mean, model.std, model.size),
                   {"chosen_dataset": name, "dataset_root": root})

    tests = f"explanation_tests_{network}.py", pics, explanation_table.tested
    tables = {f"explanation-{network}": (*tests, {})}
    for name, data, choice in by_dataset(segmentation_table.DATASETS):
        script = "seg_vit_datasets.py" if network == "vit" else f"segmentation_cnn_{name}.py"
        make = partial(segmentation_table.tested, dataset=name)
        tables[f"segmentation {name}"] = script, data, make, choice
    tables["ablations"] = *tests, {"operations": ABLATIONS[network]}
    for baseline in list(BASELINES)[1:] if network == "cnn" else ():
        tables[f"ablations {baseline}"] = *tests, {"operations": ["iia", "iia-triple"], "baseline": baseline}
    tables["sanity"] = (f"sanity_checks_{network}.py", pics, sanity_table.tested,
                        {"max_images": asked["sanity_pictures"]})
    for name, data, choice in by_dataset(pointing_table.DATASETS):
        tables[f"pointing {name}"] = f"pointing_game_{network}.py", data, pointing_table.tested, choice
    for name, (script, data, make, changes) in tables.items():
        if name.split()[0] in settings.tables:
            values = from_flags(runpy.run_path(str(scripts / script)), []).values()
            given = {key: value for key, value in asked.items() if value is not None or key == "pics_file"}
            given |= {"max_images": settings.pictures, **changes,
                      "results_dir": str(Path(settings.results_dir, name.replace(" ", "-")))}
            values |= {key: value for key, value in given.items() if key in values}
            values["operations"] = list(dict.fromkeys([*values["operations"], *(
                operation for operation, _ in PAPER.get((name, model.name), ()))]))
            yield Job(name, Settings(**values), data, make)


def share(job: Job) -> tuple[Settings, int]:
    """The job's settings with its share of the pictures, and how many these are.

    Raises:
        UserError: the data are not there.
    """
    data, values = job.data(), job.settings.values()
    most = values["max_images"]
    if not isinstance(data, PicsDataset):
        return job.settings, min(most, len(data.ids))
    count, classes = len(data.pics), len({pic.target for pic in data.pics})
    if not any(pic.path.is_file() for pic in data.pics):
        raise UserError(f"none of the {count} pictures of the list is in images_dir "
                        f"{values['images_dir']!r}.")
    values["max_images"], nth = None, -(-count // most)
    if nth > 1:
        values |= {"per_class": most // classes} if most % classes == 0 else {"every_nth": nth}
    return Settings(**values), most if nth > 1 and most % classes == 0 else -(-count // nth)


# --------------------------------------------------------------------------------- the dry run

def plan(model, job: Job, timed_pictures: int) -> float:
    """Print what a table has and costs, and return the seconds; 0 where it was not timed."""
    paper = [f"{' '.join(key)} {value}" for key, value in PAPER.get((job.name, model.name), {}).items()]
    print(f"  {job.name}; the paper: {', '.join(paper) or 'no figure known'}", flush=True)
    chosen, count = share(job)
    if not timed_pictures:
        print(f"    {count} pictures found")
        return 0
    seconds, why = attempt(partial(timed, model, chosen, job.make, min(timed_pictures, MOST_TIMED, count)))
    seconds = seconds or 0
    cost = f"{seconds * count / HOUR:.3g} hours on {model.device}, {seconds:.2f} s a picture"
    print(f"    {count} pictures found: {f'not timed: {why}' if why else cost}", flush=True)
    return seconds * count


def timed(model, settings: Settings, make: Callable, count: int) -> float:
    """Seconds a picture, over `count` of them, after one with a single step that warms the device up."""
    values = settings.values() | {"num_workers": 0, "seeds": 1}         # all seeds take equally long
    warm_up = {"INTERPOLATION_STEPS": 1, "ITERATION_STEPS": 1, "max_images": 1}
    with tempfile.TemporaryDirectory() as folder, open(os.devnull, "w") as nothing, \
            contextlib.redirect_stdout(nothing), contextlib.redirect_stderr(nothing):
        for place, changes in (("one", warm_up), ("all", {"max_images": count})):
            summary = make(model, Settings(**values | changes | {"results_dir": f"{folder}/{place}"}))
    return summary["seconds"] / summary["pictures"] * getattr(settings, "seeds", 1)
