"""The network that is explained: a copy of the user's, whole as it was, that is seen to compute the same."""

import contextlib
from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..errors import UserError, first_line, lacks_memory, rephrased
from .calls import ONE_AT_A_TIME, logits_of, not_computed_again, trace
from .copying import HOOKS, Place, detached_copy, frozen_copy, left_alone, remove, restore, watched
from .proof import HALF_TOLERANCE, TOLERANCE, difference, each_same, odd_pictures, probe_pictures
from .recorder import Recorder


class Snapshot(nn.Module):
    """A network with weights of its own, in eval mode: pictures [N, C, H, W] -> logits [N, classes].

    Attributes:
        network: the copy, in float32 where the user's is in bfloat16 or half.
        probe, logits: the random pictures on which all is proven, and what the user's network says of them.
        odd: a black picture and, where numbers of a picture decide what is computed, some of other kinds.
        calls, attention: of a pass of the second of them alone, its calls and its matrices, summed over
            heads; what has looked at them lets go of them.
        alone: whether rows run one by one, since they would change each other's logits (a batch norm without
            statistics, a branch that all of a batch take together).
    """

    def __init__(self, network: nn.Module, name: str) -> None:
        super().__init__()
        self.network, self.name, self.alone = network, name, False

    def forward(self, x: Tensor) -> Tensor:
        with not_computed_again():                       # of clones, since it may write to its pictures
            return self.row_by_row(lambda rows: logits_of(self.network(rows.clone())), x)

    def turned(self, x: Tensor) -> Tensor:
        """The logits of x; the pass has its rows in the other order, which shows whether that matters."""
        logits = self(x.flip(0))
        return logits.flip(0) if logits.ndim else logits

    def row_by_row(self, run: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """run(x), or of each row alone where rows would mix."""
        return torch.cat([run(row) for row in x.split(1)]) if self.alone else run(x)

    @torch.no_grad()
    def sized(self, shape: tuple[int, int, int]) -> "Snapshot":
        """The same snapshot with a probe of pictures (C, H, W)."""
        other = frozen_copy(self)              # modules of its own, which may remember a size
        numbers = (p for p in self.parameters() if p.is_floating_point())
        other.probe = probe_pictures(shape, next(numbers, self.probe))
        other.logits = other(other.probe)
        other.look()
        return other

    @torch.no_grad()
    def look(self) -> None:
        """Note `calls`, `attention` and whether rows run `alone`."""
        seen: list[Tensor] = []
        try:
            with Recorder(lambda A: seen.append(A.flatten(0, -3).sum(0)) or A) as recorder:
                logits, self.calls = trace(self.network, self.probe[1:])
            decides = recorder.decides
        except Exception:                  # it does something with attention that is no torch function's
            seen.clear()
            decides = True
            with rephrased(f"{self.name} does not read a single picture", "."):
                logits, self.calls = trace(self.network, self.probe[1:])
        self.attention = seen
        if logits.shape[1:] != self.logits.shape[1:] or len(logits) != 1:
            raise UserError(f"{self.name} returns {list(logits.shape)} for one picture, no logits "
                            "[1, classes]; wrap it in a module that returns these.")
        self.odd = torch.zeros_like(self.probe[:1])
        mixed = difference(torch.cat([self.logits[:1], logits]), self.logits) > TOLERANCE
        if (decides and self.decides_for_all()) or mixed or self.alone:        # the first notes `odd`, too
            self.alone = True
            self.logits = self.turned(self.probe)
            if difference(self.logits[1:], logits) > TOLERANCE:
                raise UserError(f"{self.name} answers a picture differently each time.")

    def decides_for_all(self) -> bool:
        """Whether odd pictures change each other, as one branch for a whole batch does (`if x.max() > 1`).

        `odd` has those of them that the network reads.
        """
        read, answers = [], []
        for picture in odd_pictures(self.probe).split(1):
            with contextlib.suppress(Exception):         # a network need not read them
                answers.append(self(picture))
                read.append(picture)
        self.odd = torch.cat(read) if read else self.odd
        try:
            return bool(read) and not each_same(self(self.odd), torch.cat(answers), self.logits)
        except Exception:                                # it reads them one by one only
            return True


def unwrapped(network: nn.Module) -> nn.Module:
    """The network inside DataParallel, torch.compile or peft's wrapper, which compute the same.

    Raises:
        UserError: it is no network, or the wrapper has hooks.
    """
    if not isinstance(network, nn.Module):
        raise UserError(f"a network is a torch.nn.Module, not {type(network).__name__}; iia.load_model makes "
                        "one of a name and, with weights_path, a state dict.")
    while True:
        inner = next((name for name in ("module", "_orig_mod") if type(network).__name__ in
                      ("DataParallel", "DistributedDataParallel", "OptimizedModule")
                      and hasattr(network, name)), None)
        if inner is None and hasattr(network, "get_base_model") and hasattr(network, "peft_config"):
            if any(getattr(part, kind) for part in (network, network.base_model) for kind in HOOKS):
                raise UserError("peft's wrapper has hooks of its own; give .get_base_model() with them.")
            network = network.get_base_model()                  # with its adapters in it
            continue
        if inner is None:
            return network
        if any(getattr(network, kind) for kind in HOOKS):
            raise UserError(f"{type(network).__name__} has hooks of its own; give the network inside, "
                            f".{inner}, with them.")
        network = getattr(network, inner)


def take(network: nn.Module, shapes: list[tuple[int, int, int]],
         says: tuple[int, int] | None = None) -> Snapshot:
    """A snapshot of the network, proven on random pictures of the first of `shapes` (C, H, W) that it reads.

    Raises:
        UserError: it reads none of them, cannot be copied, or the copy computes something else.
    """
    network = unwrapped(network)
    name = type(network).__name__
    if isinstance(network, torch.jit.ScriptModule):
        raise UserError("the network is scripted by torch.jit, so that its parts cannot be reached; give the "
                        "module that was scripted.")
    with ONE_AT_A_TIME, torch.no_grad():
        whole = Snapshot(detached_copy(network), name)
        like = next((p for p in whole.parameters() if p.is_floating_point()), torch.empty(0))
        if like.is_meta:
            raise UserError(f"the weights of {name} are on the device meta, which has no numbers.")
        with watched(whole.network) as hooks:
            probe, logits = first_pass(whole, shapes, like, says)
            if hooks:
                run_on_others(whole, probe)
        recorders = [place for place, witness in hooks.items() if not witness.acts]
        silent = remove(whole.network, recorders)
        if recorders and difference(whole.turned(probe), logits) > 0:     # one writes behind autograd's back
            restore(silent)
            recorders = []
        own = users_logits(network, probe, recorders)
        half = like.dtype in (torch.bfloat16, torch.float16)
        if half:
            whole.float()
            probe = probe.float()
            with rephrased(f"{name} is in half precision and does not run in float32",
                           "; give network.float()."):
                logits = whole.turned(probe)
        check_logits(network, whole, probe, logits)
        tolerance = HALF_TOLERANCE if half else TOLERANCE
        if difference(logits, own) > tolerance:                     # perhaps a row's place matters
            whole.alone, logits = True, logits_of(whole.network(probe.clone()))
        if not difference(logits, own) <= tolerance:
            raise UserError(f"{name} cannot be explained: a copy of it computes something else, or it "
                            f"answers differently each time (by {difference(logits, own):.2g} of its "
                            "largest logit).")
        whole.probe, whole.logits = probe, logits if half else own
        whole.look()
    return whole


def check_logits(network: nn.Module, whole: Snapshot, probe: Tensor, logits: Tensor) -> None:
    """Raise UserError where what the network answers to the probe is no logits, is not finite, or is the same
    for every picture."""
    if logits.ndim != 2 or not logits.is_floating_point():
        raise UserError(f"{whole.name} returns {list(logits.shape)} of {logits.dtype} for {len(probe)} "
                        "pictures, no logits [N, classes]; wrap it in a module that returns these.")
    if not torch.isfinite(logits).all():
        broken = next((key for key, value in network.state_dict().items()
                       if value.is_floating_point() and not torch.isfinite(value).all()), None)
        why = f"its {broken} is not finite" if broken else "nothing can be proven of it"
        raise UserError(f"{whole.name} answers random pictures with NaN or infinity; {why}.")
    if torch.equal(logits[:1], logits[1:]) and torch.equal(whole(-probe), logits):
        raise UserError(f"{whole.name} answers all of four random pictures with the very same logits: "
                        "nothing in a picture matters. An untrained network may have a last layer of zeros.")


def first_pass(whole: Snapshot, shapes: list, like: Tensor,
               says: tuple[int, int] | None) -> tuple[Tensor, Tensor]:
    """The probe of the first shape that the network reads, and its logits, `turned`."""
    why = None
    for shape in shapes:
        probe = probe_pictures(shape, like)
        try:
            return probe, whole.turned(probe)
        except Exception as error:          # whatever a network raises for pictures that it does not read
            if isinstance(error, UserError) or lacks_memory(error):
                raise
            why = why or error
    own = f", {says[0]} x {says[1]} by its own word" if says else ""
    raise UserError(f"{whole.name} does not read pictures of {' x '.join(map(str, shapes[0]))} "
                    f"({first_line(why)}). Give pictures that it reads{own}, or image_size and in_chans "
                    "to iia.wrap.") from why


def run_on_others(whole: Snapshot, probe: Tensor) -> None:
    """Let hooks that act on some pictures only (a clamp, a guard, a change of size) show it: on odd ones, one
    by one, on very strong ones and on those of other sizes."""
    others = [*odd_pictures(probe).split(1), 10 * probe, -10 * probe, probe[..., ::2, ::2],
              probe.repeat_interleave(2, -1).repeat_interleave(2, -2)]
    for pictures in others:
        with contextlib.suppress(Exception):         # a network need not read them
            whole(pictures)


@torch.no_grad()
def users_logits(network: nn.Module, probe: Tensor, silent: list[Place]) -> Tensor:
    """What the user's own network says of the probe, in eval mode and without the hooks `silent`.

    It is left as it was.
    """
    removed = remove(network, silent)
    try:
        with left_alone(network):
            for module in network.modules():
                module.training = False
            return logits_of(network(probe.clone())).detach().clone()
    finally:
        restore(removed)
