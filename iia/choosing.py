"""The network that a script's settings ask for."""

import sys

from .errors import UserError
from .models import CNN, ViT
from .models.loading import load_model
from .models.weights import WeightsMissing
from .settings import Settings

HOW = ("weights_path", "allow_random_weights", "precision", "labels_file", "image_size", "in_chans")


def chosen_cnn(chosen: Settings, other_script: str) -> CNN:
    """The CNN that a script's settings ask for. One that was named by flag is never replaced.

    Raises:
        UserError: they name a ViT, which `other_script` explains.
    """
    fallback = None if "model_name" in chosen.given else chosen.fallback_model_name
    model = load_or_fallback(chosen.model_name, fallback, **_how(chosen))
    if isinstance(model, ViT):
        raise UserError(f"{model.name} is a vision transformer; give it to {other_script}.")
    return model


def chosen_vit(chosen: Settings, other_script: str) -> ViT:
    """The ViT that a script's settings ask for.

    Raises:
        UserError: they name a network without attention over patches, which `other_script` explains.
    """
    model = load_model(chosen.model_name, **_how(chosen))
    if isinstance(model, CNN):
        raise UserError(f"{model.name} has no attention over all patches to explain; "
                        f"give it to {other_script}.")
    return model


def load_or_fallback(name: str, fallback: str | None, **how) -> CNN | ViT:
    """`load_model`, or the fallback network with a warning where no weights of `name` can be had."""
    try:
        return load_model(name, **how)
    except WeightsMissing as why:
        if fallback is None:
            raise
        print(f"warning: explaining {fallback} instead of {name}, whose weights are {why.reason}.\n"
              f"         {why.remedy}", file=sys.stderr)
        return load_model(fallback, precision=how.get("precision", "fp32"))


def _how(chosen: Settings) -> dict:
    return {name: getattr(chosen, name) for name in HOW}


def layer_and_steps(chosen: Settings) -> tuple[int | str, int]:
    """The layer that is explained and n, under the names that a CNN's and a ViT's script give them."""
    values = vars(chosen)
    return values.get("FEATURE_LAYER_NUMBER", "last"), values.get("INTERPOLATION_STEPS", values.get("ITERATION_STEPS"))


def at_least(chosen: Settings, **least: int) -> None:
    """Raise UserError where a setting is less than the number given for it; None, or one that is not there, is not."""
    for name, number in least.items():
        value = getattr(chosen, name, None)
        if value is not None and value < number:
            raise UserError(f"{name} is {value}; it is at least {number}.")
