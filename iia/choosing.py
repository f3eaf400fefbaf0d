"""The network that a script's settings ask for, and how they want it explained."""

import sys

from .errors import UserError
from .explaining import operations, prepare
from .models import CNN, ViT
from .models.loading import load_model
from .models.weights import WeightsMissing
from .settings import Settings

LEAST = {"batch_size": 1, "INTERPOLATION_STEPS": 1, "ITERATION_STEPS": 1, "max_images": 1, "every_nth": 1,
         "per_class": 1, "seeds": 1, "pictures": 1, "sanity_pictures": 1, "timed_pictures": 0,
         "num_workers": 0, "save_overlays": 0}          # what whole numbers among the settings are at least
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
        others = (name for name in OF_NETWORK if name not in ("weights_path", "allow_random_weights"))
        return load_model(fallback, **{name: getattr(settings, name) for name in others})


def explain_options(model: CNN | ViT, settings: Settings) -> dict[str, object]:
    """The settings as arguments of `iia.explain`, seen to be right for every operation that is asked for.

    Raises:
        UserError: one of them is wrong.
    """
    check_numbers(settings)
    options = dict(of_paths(settings), definition=settings.definition, batch_size=settings.batch_size)
    if not settings.operations:
        raise UserError(f"operations is empty. Allowed: {', '.join(operations(model))}.")
    prepared = [prepare(model, operation, **options) for operation in settings.operations]
    return options | {"steps": prepared[0][2].steps}           # a number where the setting is None


def of_paths(settings: Settings) -> dict[str, object]:
    """The layer that is explained and how its paths are summed, as arguments of `iia.explain`."""
    values = vars(settings)
    steps = "ITERATION_STEPS" if "ITERATION_STEPS" in values else "INTERPOLATION_STEPS"
    return dict(layer=values.get("FEATURE_LAYER_NUMBER", "last"), steps=values[steps],
                **{name: values[name] for name in ("quadrature", "baseline") if name in values})


def check_numbers(settings: Settings) -> None:
    """Raise UserError where a setting is less than its number in LEAST, or no whole number.

    None, or a setting that the script does not have, passes.
    """
    for name, least in LEAST.items():
        value = getattr(settings, name, None)
        if value is not None and (type(value) is not int or value < least):
            raise UserError(f"{name} is {value!r}; it is a whole number, at least {least}.")
