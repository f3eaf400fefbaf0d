"""The six metrics without AIC and SIC: how much faster than a pass for each masked picture, and where the
time goes.

The rival computes each metric by itself: it orders the pixels, and asks about one masked picture at a time.
Both ways start from the same finished maps and must agree on every metric.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import iia
from benchmarks.timing import synchronise
from iia import settings
from iia.datasets.photographs import NAMES, photograph
from iia.datasets.pictures import denormalise, normalise
from iia.evaluation.explanation_tests import PAPER, score, score_originals
from iia.evaluation.given_maps import random_maps

# ------------------------------------------------------------------------------------- settings
pictures = 6                    # each of the photographs again and again
maps = 3                        # random maps of each picture
batch_size = 32                 # rows through the network at once
threads: int | None = None      # of torch; None for as many as it takes
# ----------------------------------------------------------------------------------------------

MODEL, SIX = "efficientnet_lite0", PAPER[:6]


class Timed:
    """A network that adds up the seconds and the rows of its passes."""

    def __init__(self, network, model) -> None:
        self.network, self.mean, self.std = network, model.mean, model.std
        self.seconds, self.rows, self.passes = 0.0, 0, 0

    def __call__(self, x: Tensor) -> Tensor:
        synchronise()
        start = time.perf_counter()
        logits = self.network(x)
        synchronise()
        self.seconds += time.perf_counter() - start
        self.rows, self.passes = self.rows + len(x), self.passes + 1
        return logits


# ------------------------------------------------------------- the rival: one picture, one metric at a time

@torch.no_grad()
def one_by_one(model, picture: Tensor, wanted: int, saliency: Tensor) -> list[float]:
    """The six metrics of a map [H, W] of a picture [3, H, W], each from passes of its own."""
    raw = denormalise(picture, model.mean, model.std)

    def answer(seen: Tensor) -> tuple[float, float]:
        logits = model(normalise(seen, model.mean, model.std)[None])[0]
        return float(logits.argmax() == wanted), float(logits.softmax(0)[wanted])

    def curve(most: bool, read: int) -> float:
        order = saliency.flatten().argsort(descending=True, stable=True)
        order = order if most else order.flip(0)
        values = [answer(raw)[read]]
        for tenths in range(1, 10):
            masked = raw.clone()
            masked.view(3, -1)[:, order[:tenths * len(order) // 10]] = 0
            values.append(answer(masked)[read])
        return 10 * (sum(values) - (values[0] + values[-1]) / 2)

    def seen_through() -> tuple[float, float]:
        return answer(raw)[1], answer(raw * saliency)[1]

    (y, o), (whole, seen) = seen_through(), seen_through()
    return [curve(True, 0), curve(False, 0), curve(True, 1), curve(False, 1),
            100 * max(0, y - o) / y, 100.0 * (whole < seen)]


# ------------------------------------------------------------------------------------------------- measuring

def seconds(work: Callable[[], object]) -> tuple[float, object]:
    synchronise()
    start = time.perf_counter()
    result = work()
    synchronise()
    return time.perf_counter() - start, result


def together(model, pictures: Tensor, classes: Tensor, maps: list[Tensor], batch_size: int) -> Tensor:
    """As the scripts do it: the pictures once, then each operation's maps. [maps, pictures, metrics]."""
    originals = score_originals(model, pictures, classes, SIX, batch_size=batch_size)
    metrics = [score(model, pictures, classes, own, SIX, originals, batch_size=batch_size)[0] for own in maps]
    return torch.stack([torch.stack(list(own.values()), -1) for own in metrics])


def main(how: settings.Settings) -> None:
    torch.set_num_threads(how.threads or torch.get_num_threads())
    model = iia.load_model(MODEL).to("cuda" if torch.cuda.is_available() else "cpu")
    pictures = iia.load_pictures([photograph(name) for name in NAMES], model)
    pictures = pictures.repeat(-(-how.pictures // len(NAMES)), 1, 1, 1)[:how.pictures]
    classes = iia.predict(model, pictures)
    maps = [random_maps(pictures, range(k, k + len(pictures)), model.upsampling) for k in range(how.maps)]
    network = model.network                                     # as timm has it, for the rival
    score(model, pictures[:1], classes[:1], maps[0][:1], SIX, batch_size=how.batch_size)  # warm up
    network(pictures[:1])

    rival, quick, count = Timed(network, model), Timed(model, model), how.pictures * how.maps
    alone, expected = seconds(lambda: torch.tensor(
        [[one_by_one(rival, *given) for given in zip(pictures, classes.tolist(), own)] for own in maps]))
    batched, metrics = seconds(lambda: together(quick, pictures, classes, maps, how.batch_size))
    outside = 1 - quick.seconds / batched
    print(f"{model.label}, {count} maps of {how.pictures} pictures, {torch.get_num_threads()} threads, "
          f"{model.device}")
    print(f"one by one  {alone / count:7.3f} s a map  {rival.rows:6d} pictures in {rival.passes} passes")
    print(f"together    {batched / count:7.3f} s a map  {quick.rows:6d} pictures in {quick.passes} passes")
    print(f"ratio       {alone / batched:7.2f}  (goal: at least 3 on two cores)")
    print(f"outside the passes  {100 * outside:.1f} %  (goal: less than 15 %)")
    difference = (metrics.double() - expected).abs().max()
    print(f"largest difference between the two ways  {difference:.2g} points of 100")


if __name__ == "__main__":
    settings.run(main, globals())
