"""The network that a script's settings ask for, and how they want it explained."""

import sys

from .errors import UserError
from .explaining import operations, prepare
from .models import CNN, ViT
from .models.loading import load_model
from .models.weights import WeightsMissing
from .settings import Settings

OF_NETWORK = ("weights_path", "allow_random_weights", "precision", "labels_file", "image_size", "in_chans")


def chosen_cnn(settings: Settings, other_script: str) -> CNN:
    """The CNN that a script's settings ask for. One that was named by flag is never replaced.

    Raises:
        UserError: they name a ViT, which `other_script` explains.
    """
    fallback = None if "model_name" in settings.given else settings.fallback_model_name
    model = load_or_fallback(settings, fallback)
    if isinstance(model, ViT):
        raise UserError(f"{model.name} is a vision transformer; give it to {other_script}.")
    return model


def chosen_vit(settings: Settings, other_script: str) -> ViT:
    """The ViT that a script's settings ask for.

    Raises:
        UserError: they name a network without attention over patches, which `other_script` explains.
    """
    model = load_or_fallback(settings, None)
    if isinstance(model, CNN):
        raise UserError(f"{model.name} has no attention over all patches to explain; "
                        f"give it to {other_script}.")
    return model


def load_or_fallback(settings: Settings, fallback: str | None) -> CNN | ViT:
    """The network of the settings, or the fallback with a warning where no weights of it can be had."""
    try:
        return load_model(settings.model_name, **{name: getattr(settings, name) for name in OF_NETWORK})
    except WeightsMissing as why:
        if fallback is None:
            raise
        print(f"warning: explaining {fallback} instead of {settings.model_name}, whose weights are "
              f"{why.reason}.\n         {why.remedy}", file=sys.stderr)
        own = (name for name in OF_NETWORK if name not in ("weights_path", "allow_random_weights"))
        return load_model(fallback, **{name: getattr(settings, name) for name in own})


def explain_options(model: CNN | ViT, settings: Settings) -> dict[str, object]:
    """The settings as arguments of `iia.explain`, seen to be right for every operation that is asked for.

    Raises:
        UserError: one of them is wrong.
    """
    at_least(settings, INTERPOLATION_STEPS=1, ITERATION_STEPS=1, batch_size=1, max_images=1,
             every_nth=1, per_class=1)
    options = dict(of_paths(settings), definition=settings.definition, batch_size=settings.batch_size)
    if not settings.operations:
        raise UserError(f"operations is empty. Allowed: {', '.join(operations(model))}.")
    prepared = [prepare(model, operation, **options) for operation in settings.operations]
    return options | {"steps": prepared[0][2].steps}           # a number where the setting is None


def of_paths(settings: Settings) -> dict[str, object]:
    """The layer that is explained and how its paths are summed, by `iia.explain`'s names."""
    own = vars(settings)
    steps = "ITERATION_STEPS" if "ITERATION_STEPS" in own else "INTERPOLATION_STEPS"
    return dict(layer=own.get("FEATURE_LAYER_NUMBER", "last"), steps=own[steps],
                **{name: own[name] for name in ("quadrature", "baseline") if name in own})


def at_least(settings: Settings, **least: int) -> None:
    """Raise UserError where a setting is less than the number given for it, or no whole number.

    None, or a setting that the script does not have, passes.
    """
    for name, number in least.items():
        value = getattr(settings, name, None)
        if value is not None and (type(value) is not int or value < number):
            raise UserError(f"{name} is {value!r}; it is a whole number, at least {number}.")
