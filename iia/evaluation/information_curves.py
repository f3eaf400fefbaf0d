"""AIC and SIC: how fast the answer comes back as a blurred picture regains its most relevant pixels.

PAIR's accuracy and softmax information curves (Kapishnikov et al., XRAI, ICCV 2019), as
`saliency.metrics.pic` computes them, for a batch of maps at once. A picture is blurred by keeping one pixel
in a hundred, at random, and filling in linearly between them. The information in a picture is the size of its
lossless WebP file.
"""

import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import torch
from PIL import Image
from scipy.interpolate import LinearNDInterpolator
from scipy.ndimage import minimum_filter
from threadpoolctl import threadpool_limits
from torch import Tensor

from ..datasets.pictures import denormalise, normalise
from .answers import SOFTMAX, TOP1, ask

THRESHOLDS = (.005, .01, .02, .03, .04, .05, .07, .10, .13, .21, .34, .5, .75)  # shares of the pixels shown
KEPT = 0.01                     # the share of the pixels that the blurred picture keeps
POINTS = 1000                   # of a curve, besides its end
COLUMNS = {"AIC": TOP1, "SIC": SOFTMAX}       # of an answer
# A picture has a curve where such a column of its answer is at least so much.
Sure = dict[str, tuple[int, float]]
SURE: Sure = {"AIC": (TOP1, 0.8), "SIC": (SOFTMAX, 0.8)}
PROBABLE: Sure = dict.fromkeys(COLUMNS, (SOFTMAX, 0.5))


@dataclass(frozen=True)
class CurveEndpoints:
    """Where the curves of a batch begin, at the blurred pictures, and end, at the pictures themselves.

    pixels: the pictures, uint8 [B, H, W, C].
    kept: the pixels that every blurred picture keeps, bool [B, H, W].
    exact: how pictures are filled in, as in `curve_endpoints`.
    blurred_size, size: bytes as WebP, float64 [B]. blurred, original: answers, [B, 2] as from `ask`.
    seen: the bytes and the answer [2] of what maps have shown, by (picture, mask): maps that show the same
    need it once.
    """
    pixels: np.ndarray
    kept: np.ndarray
    exact: bool
    blurred_size: Tensor
    size: Tensor
    blurred: Tensor
    original: Tensor
    seen: dict[tuple, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def usable(self, name: str, sure: Sure) -> Tensor:
        """Which pictures have the curve, bool [B]: the network is sure of the class, and blurring lowers both
        its answer and the information."""
        column, (decisive, least) = COLUMNS[name], sure[name]
        whole, blurred = self.original[:, column], self.blurred[:, column]
        return (self.original[:, decisive] >= least) & (blurred < whole) & (self.blurred_size < self.size)


def curve_endpoints(model, pictures: Tensor, classes: Tensor, seeds: Sequence[int], original: Tensor,
                    batch_size: int, exact: bool = False) -> CurveEndpoints:
    """What the curves of all maps of the same pictures share.

    Args:
        seeds: of the pixels that each blurred picture keeps, [B].
        original: the answers for the pictures themselves, [B, 2].
        exact: True fills in from all known pixels, as the library does, not only from those that border on an
            unknown one. It is up to a hundred times slower; the areas differ by about a thousandth.
        The others as for `information_curves`.
    """
    pixels = to_pixels(model, pictures)
    kept = np.stack([random_pixels(pixels.shape[1:3], seed) for seed in seeds])
    blurred, blurred_sizes = fill_all(pixels, kept, exact)
    answers = ask(model, from_pixels(model, blurred, pictures), classes, batch_size)
    sizes = torch.tensor([webp_size(picture) for picture in pixels], dtype=torch.float64)
    return CurveEndpoints(pixels, kept, exact, blurred_sizes, sizes, answers.cpu().double(),
                          original.cpu().double())


def information_curves(model, pictures: Tensor, classes: Tensor, maps: Tensor, wanted: set[str],
                       endpoints: CurveEndpoints, batch_size: int, thresholds: Sequence[float] = THRESHOLDS,
                       sure: Sure = SURE) -> dict[str, Tensor]:
    """The accuracy and the softmax information curve of each map.

    Args:
        model: any network of this project; it is asked for `classes`, whatever the maps explain.
        pictures: normalised for the model, [B, C, H, W].
        classes: [B], int64.
        maps: the higher the more relevant, [B, H, W].
        wanted: "AIC", "SIC" or both.
        endpoints: what `curve_endpoints` returned for these pictures and classes.
        batch_size: how many pictures go through the network at once.
        thresholds: shares of the pixels shown. sure: which pictures have a curve.

    Returns:
        By name, float64 [B, 1001] on the CPU: the answer at information 0, 0.001 ... 1, both scaled from the
        blurred picture's to the picture's own and the answer never falling. NaN where a picture has no curve.
    """
    columns = {name: column for name, column in COLUMNS.items() if name in wanted}
    usable = {name: endpoints.usable(name, sure) for name in columns}
    curves = {name: torch.full((len(maps), POINTS + 1), torch.nan, dtype=torch.float64) for name in columns}
    # the others are not worth their pictures
    rows = torch.stack(list(usable.values())).any(0).nonzero()[:, 0]
    if not len(rows):
        return curves

    shown = most_relevant(maps[rows.to(maps.device)], thresholds)                           # [R, T, H, W]
    shown |= endpoints.kept[rows.numpy(), None]
    sizes, answers = see(model, pictures, classes, endpoints, rows, shown, batch_size)
    low, high = endpoints.blurred_size[rows, None], endpoints.size[rows, None]
    information = ((sizes - low) / (high - low)).clamp(0, 1)
    for name, column in columns.items():
        low, high = endpoints.blurred[rows, column, None], endpoints.original[rows, column, None]
        regained = ((answers[..., column] - low) / (high - low)).clamp(0, 1).cummax(1).values
        curves[name][rows] = torch.where(usable[name][rows, None], join(information, regained), torch.nan)
    return curves


def see(model, pictures: Tensor, classes: Tensor, endpoints: CurveEndpoints, rows: Tensor, shown: np.ndarray,
        batch_size: int) -> tuple[Tensor, Tensor]:
    """The bytes [R, T] and the answers [R, T, 2] of the pictures `rows` [R], filled in from what is shown of
    them, bool [R, T, H, W]; from `endpoints.seen` where another map has shown the same."""
    owners = rows.repeat_interleave(shown.shape[1])
    masks = shown.reshape(-1, *shown.shape[2:])
    keys = [(owner, np.packbits(mask).tobytes()) for owner, mask in zip(owners.tolist(), masks)]
    new = {key: k for k, key in enumerate(keys) if key not in endpoints.seen}
    if new:
        places = list(new.values())
        filled, sizes = fill_all(endpoints.pixels[owners[places].numpy()], masks[places], endpoints.exact)
        answers = ask(model, from_pixels(model, filled, pictures),
                      classes[owners[places].to(classes.device)], batch_size).cpu().double()
        endpoints.seen.update(zip(new, zip(sizes, answers)))
    sizes, answers = (torch.stack(values) for values in zip(*(endpoints.seen[key] for key in keys)))
    return sizes.view(len(rows), -1), answers.view(len(rows), -1, 2)


def unit_area(curves: Tensor) -> Tensor:
    """The area under curves [..., K] of evenly spaced points over 0 ... 1; NaN where there is no curve."""
    return torch.trapezoid(curves, dx=1 / (curves.shape[-1] - 1), dim=-1)


def join(x: Tensor, y: Tensor) -> Tensor:
    """The curves through (0, 0), the points (x, y) [B, T] in order of x, and (1, 1), at 1001 points: [B,
    1001]."""
    zero, one = x.new_zeros(len(x), 1), x.new_ones(len(x), 1)
    x, order = torch.cat([x, zero, one], 1).sort(dim=1, stable=True)
    y = torch.cat([y, zero, one], 1).gather(1, order)
    grid = (torch.arange(POINTS, dtype=x.dtype) / POINTS).expand(len(x), -1).contiguous()
    left = torch.searchsorted(x, grid, right=True) - 1        # of points above one another, the last counts
    x0, x1, y0, y1 = (values.gather(1, at) for values in (x, y) for at in (left, left + 1))
    return torch.cat([y0 + (y1 - y0) * (grid - x0) / (x1 - x0), one], 1)


# ---------------------------------------------------------------------- pictures of 8 bits, on the CPU

def random_pixels(size: tuple[int, int], seed: int) -> np.ndarray:
    """One pixel in a hundred, bool [H, W]; the same for the same seed."""
    mask = np.zeros(size, dtype=bool)
    mask.flat[np.random.default_rng(seed).choice(mask.size, int(mask.size * KEPT), replace=False)] = True
    return mask


def most_relevant(maps: Tensor, thresholds: Sequence[float]) -> np.ndarray:
    """The pixels at or above each threshold's quantile: maps [B, H, W] -> bool [B, T, H, W]."""
    maps = maps.cpu().double()
    levels = maps.flatten(1).quantile(1 - maps.new_tensor(thresholds), dim=1).T           # [B, T]
    return (maps[:, None] >= levels[..., None, None]).numpy()


def fill_all(pictures: np.ndarray, known: np.ndarray, exact: bool) -> tuple[np.ndarray, Tensor]:
    """Each picture filled in from its known pixels, uint8 [N, H, W, C], and its size in bytes, float64 [N].

    It takes as many threads as torch has: the WebP encoder, which takes most of the time, runs outside
    Python's lock. But scipy solves a system of three equations for each triangle, and several threads of its
    linear algebra would only wait for each other: filling in then takes up to ten times as long.
    """
    def one(picture, mask):
        filled = fill(picture, mask, exact)
        return filled, webp_size(filled)
    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(torch.get_num_threads()) as pool:
        filled, sizes = zip(*pool.map(one, pictures, known))
    return np.stack(filled), torch.tensor(sizes, dtype=torch.float64)


def fill(picture: np.ndarray, known: np.ndarray, exact: bool = False) -> np.ndarray:
    """The picture with its unknown pixels interpolated linearly over a Delaunay triangulation of the known
    ones.

    Args:
        picture: uint8 [H, W, C].
        known: bool [H, W]; the corners always count as known.
        exact: triangulate all known pixels. Otherwise those with eight known neighbours are left out: they
            are no corner of a triangle that holds an unknown pixel. Only where four known pixels lie on one
            circle may their square then be cut along its other diagonal.

    Returns:
        uint8 [H, W, C].
    """
    known = with_corners(known)
    if known.all():
        return picture
    corners = known if exact else with_corners(known & ~minimum_filter(known, size=3, mode="nearest"))
    surface = LinearNDInterpolator(np.argwhere(corners), picture[corners].astype(np.float64))
    values = surface(np.argwhere(~known))
    values = np.where(np.isnan(values), picture.mean((0, 1)), values)
    filled = picture.copy()
    filled[~known] = values.astype(np.float32).round()  # in float32, as the library: it decides on x.5
    return filled


def with_corners(mask: np.ndarray) -> np.ndarray:
    """The mask, bool [H, W], and the picture's four corners."""
    mask = mask.copy()
    mask[[0, 0, -1, -1], [0, -1, 0, -1]] = True
    return mask


def webp_size(picture: np.ndarray) -> int:
    """Bytes of the picture, uint8 [H, W, C], as a lossless WebP."""
    file = io.BytesIO()
    Image.fromarray(picture[..., 0] if picture.shape[2] == 1 else picture).save(
        file, format="webp", lossless=True, quality=100)
    return file.tell()


def to_pixels(model, pictures: Tensor) -> np.ndarray:
    """Normalised pictures [B, C, H, W] -> uint8 [B, H, W, C]."""
    raw = denormalise(pictures, model.mean, model.std).clamp(0, 1)
    return (raw * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()


def from_pixels(model, pixels: np.ndarray, like: Tensor) -> Tensor:
    """The inverse of `to_pixels`, on the device and in the precision of `like`."""
    raw = torch.from_numpy(pixels).permute(0, 3, 1, 2).to(like.device, like.dtype) / 255
    return normalise(raw, model.mean, model.std)
