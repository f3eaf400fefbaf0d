"""Maps that no operation makes: noise, and maps from files."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..maps import finish, map_file, minmax

RANDOM_GRID = 7             # cells a side; a map of the CNNs' last layer has as many


def random_maps(pictures: Tensor, seeds: Sequence[int], upsampling: str) -> Tensor:
    """Maps that know nothing, [B, H, W] in [0, 1]: uniform noise on 7 x 7 cells, upsampled.

    Noise of single pixels would be no fair rival: masking scattered pixels destroys a picture sooner than
    masking connected regions, whichever regions those are. A picture's map is always the same, given its
    seed.
    """
    cells = [torch.rand(RANDOM_GRID, RANDOM_GRID, generator=torch.Generator().manual_seed(seed))
             for seed in seeds]
    return finish(torch.stack(cells), tuple(pictures.shape[-2:]), upsampling).to(pictures)


def read_maps(folder: Path, operation: str, model_name: str, pictures: Tensor, stems: list[str],
              ) -> tuple[Tensor, dict[int, str]]:
    """Maps made elsewhere, `{stem}_{operation}_{model}.npy`: [B, H, W] in [0, 1], and {place: why there is
    none}."""
    maps, skipped = torch.zeros_like(pictures[:, 0]), {}
    for i, stem in enumerate(stems):
        path = map_file(folder, stem, operation, model_name)
        try:
            if path.exists() and not path.is_file():                # reading a pipe would wait for ever
                raise ValueError("it is no file")
            values = np.load(path, mmap_mode="r")
            if values.shape != maps[i].shape:
                raise ValueError(f"it is {list(values.shape)}, not {list(maps[i].shape)}")
            if values.dtype.kind not in "fiub":
                raise ValueError(f"it is of {values.dtype}, no real numbers")
            if not np.isfinite(values).all():
                raise ValueError("not all of its numbers are finite")
            maps[i] = torch.from_numpy(values.astype(np.float64)).to(maps)
        except FileNotFoundError:
            skipped[i] = f"{path} is missing"
        except Exception as why:  # a file may pretend to be an archive, a pickle, an array of anything
            skipped[i] = f"{path} holds no map ({why})"
    return minmax(maps), skipped
