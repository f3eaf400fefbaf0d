"""Iterated Integrated Attributions: saliency maps for CNNs and vision transformers.

    import iia
    model = iia.load_model("resnet101")
    pictures = iia.load_pictures(["cat.jpg"], model)                          # [B, 3, 224, 224]
    maps = iia.explain(model, pictures, classes=[285], operation="iia-triple")  # [B, 224, 224] in [0, 1]
"""

from importlib import import_module

_PLACES = {"UserError": "errors", "explain": "explaining", "keep_freed_memory": "memory",
           "load_model": "models.loading", "load_pictures": "datasets.pictures", "operations": "explaining",
           "predict": "explaining", "sharing": "explaining", "wrap": "models"}

__all__ = list(_PLACES)


def __getattr__(name: str) -> object:
    """Import a name when it is first used: torch takes seconds, for which `--help` need not wait."""
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value = getattr(import_module(f".{_PLACES[name]}", __name__), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_PLACES})
