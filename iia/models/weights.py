"""Where weights come from, and what to say when they cannot be had.

The order is: the file the user names, `data/weights/`, the caches of torch and of the Hugging Face
hub, a download. Loading is strict: the file's tensors are the network's, all of them, or it is an error.
"""

import os
import re
import threading
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlparse
from urllib.request import Request, urlopen

import torch
from torch import Tensor, nn

from ..errors import UserError

WEIGHTS_DIR = Path("data") / "weights"
PROJECT_DIR = Path(__file__).resolve().parents[2]
DOWNLOAD_TIMEOUT = 6         # seconds without an answer


class WeightsMissing(UserError):
    """No weights could be had: `reason` says why, `remedy` which file is wanted and where to put it."""

    def __init__(self, name: str, reason: str, remedy: str) -> None:
        super().__init__(f"no weights for {name}: {reason}.\n{remedy}\n"
                         "(--allow_random_weights runs without them; such maps mean nothing.)")
        self.reason, self.remedy = reason, remedy


@dataclass(frozen=True)
class Source:
    """Where a network's published weights are: an address, a repository of the hub, or both."""
    url: str | None = None
    hub: str | None = None                  # "owner/repository" on the Hugging Face hub
    more_names: tuple[str, ...] = ()        # other file names that hold these weights

    @property
    def names(self) -> list[str]:
        """The file names under which `data/weights/` and torch's cache are searched."""
        own = [Path(urlparse(self.url).path).name] if self.url else []
        hub = [f"{self.hub.split('/')[-1]}.safetensors"] if self.hub else []
        return own + list(self.more_names) + hub


def find(name: str, source: Source) -> Path:
    """The file with the weights of network `name`: on this machine, else downloaded.

    Raises:
        WeightsMissing: nowhere to be had.
    """
    return find_local(name, source) or download(name, source)


def find_local(name: str, source: Source) -> Path | None:
    """The weights in `data/weights/` or in the caches of torch and of the hub, if they are there."""
    folders = [WEIGHTS_DIR, PROJECT_DIR / WEIGHTS_DIR]
    names = source.names + [f"{name}.pth", f"{name}.safetensors"]
    places = [folder / file for folder in folders for file in names]
    places += [Path(torch.hub.get_dir()) / "checkpoints" / file for file in source.names]
    found = next((place for place in places if place.is_file()), None)
    return found or (_in_hub_cache(source.hub) if source.hub else None)


def _in_hub_cache(repository: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache
    for file in ("model.safetensors", "pytorch_model.bin"):
        found = try_to_load_from_cache(repository, file)
        if isinstance(found, str):
            return Path(found)
    return None


def download(name: str, source: Source) -> Path:
    """Fetch the weights into torch's or the hub's cache; without a network the answer comes soon.

    Raises:
        WeightsMissing: there is no address, or nothing came.
    """
    try:
        if source.url:
            _ask(source.url)
            place = Path(torch.hub.get_dir()) / "checkpoints" / source.names[0]
            place.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(source.url, str(place))
            return place
        if source.hub:
            from huggingface_hub import hf_hub_download
            _ask(f"{os.environ.get('HF_ENDPOINT', 'https://huggingface.co')}/{source.hub}/resolve/main/model.safetensors")
            return Path(hf_hub_download(source.hub, "model.safetensors"))
        raise OSError("no address is known")
    except Exception as why:      # urllib, ssl, the hub's client and the disk each raise their own
        raise _missing(name, source, why) from why


def _ask(address: str) -> None:
    """One short look whether the address answers: the download clients would wait and try again for a
    minute, and a name server that says nothing heeds no socket's time-out, hence the thread."""
    outcome: list[Exception | None] = []

    def ask() -> None:
        try:
            urlopen(Request(address, method="HEAD"), timeout=DOWNLOAD_TIMEOUT).close()
            outcome.append(None)
        except Exception as why:
            outcome.append(why)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(DOWNLOAD_TIMEOUT)
    if not outcome:
        raise TimeoutError(f"no answer within {DOWNLOAD_TIMEOUT} seconds")
    if outcome[0] is not None:
        raise outcome[0]


def _missing(name: str, source: Source, why: Exception) -> WeightsMissing:
    said = str(why).strip().splitlines() or [type(why).__name__]
    wanted = WEIGHTS_DIR / (source.names[0] if source.url else f"{name}.safetensors")
    address = source.url or (f"model.safetensors of {source.hub} on the Hugging Face hub" if source.hub else "the weights")
    return WeightsMissing(name, f"not on this machine, and the download failed ({said[0][:100]})",
                          f"Get {address} and put it at {wanted}, or name a file with --weights_path.")


# ------------------------------------------------------------------------------- loading

def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint (.pth, .pt, .bin, .safetensors), bare or under a usual key.

    Raises:
        UserError: the file is missing, is no checkpoint, or is cut short.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"weights_path {str(path)!r} is no file. Name a state dict (.pth or .safetensors).")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file
            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as why:      # pickle, zipfile and safetensors each have errors of their own
        raise UserError(f"{path} cannot be read as a checkpoint ({type(why).__name__}): it is cut short, "
                        "of another format, or holds more than tensors. Fetch it again.") from why
    for key in ("state_dict", "model", "model_state_dict"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not state or not all(isinstance(v, Tensor) for v in state.values()):
        raise UserError(f"{path} holds no state dict (a dict of tensors by name).")
    if all(name.startswith("module.") for name in state):            # saved from DataParallel
        state = {name.removeprefix("module."): value for name, value in state.items()}
    return state


# torchvision's DenseNet files still bear the names of 2017: `denselayer1.norm.1.weight`.
_OLD_DENSENET = re.compile(r"(\.denselayer\d+\.(?:norm|relu|conv))\.(?=[12]\.)")


def load_strictly(network: nn.Module, state: dict[str, Tensor], origin: str | Path) -> nn.Module:
    """Load every tensor of the network from `state`; anything missing, left over or misshapen is an error.

    Raises:
        UserError: says how many and which tensors do not fit.
    """
    state = {_OLD_DENSENET.sub(r"\1", name): value for name, value in state.items()}
    own = network.state_dict()
    counters = {name for name in own if name.endswith("num_batches_tracked")}   # not in older files
    missing = [name for name in own if name not in state and name not in counters]
    surplus = [name for name in state if name not in own]
    misshapen = [f"{name} {tuple(state[name].shape)} instead of {tuple(own[name].shape)}"
                 for name in own if name in state and state[name].shape != own[name].shape]
    if missing or surplus or misshapen:
        said = [f"{len(names)} {what} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
                for what, names in (("missing", missing), ("unknown", surplus), ("of another shape", misshapen)) if names]
        raise UserError(f"the weights in {origin} are not those of {type(network).__name__} as it was asked for: "
                        f"{'; '.join(said)}; it wants exactly its own {len(own) - len(counters)} tensors.")
    network.load_state_dict(state, strict=False)      # strict by the check above, but for the counters
    return network
