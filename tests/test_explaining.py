"""Operations that share what they have in common find the same maps, with less work."""

import pytest
import torch

import iia
from iia.models.cnn import Shared

OPERATIONS = ("iia", "iia-triple", "iia-ablation-im", "iia-ablation-ac")


@pytest.fixture
def pictures_through(monkeypatch):
    """How many pictures have gone through the first stage."""
    rows, stages = [], iia.models.cnn.CNN.stages

    def counted(self, start, stop, x):
        rows.extend([1] * len(x) if start == 0 < stop else [])
        return stages(self, start, stop, x)

    monkeypatch.setattr(iia.models.cnn.CNN, "stages", counted)
    return rows


@pytest.mark.parametrize("definition", ["paper", "release"])
def test_shared_maps_are_the_same_maps(vgg, pictures, classes, definition, pictures_through):
    model, n = iia.wrap(vgg), 3

    def maps():
        return [iia.explain(model, pictures, classes, name, layer=5, steps=n, batch_size=4, definition=definition)
                for name in OPERATIONS]

    alone = maps()
    before = len(pictures_through)
    with iia.sharing(model, pictures):
        together = maps()
    for one, other in zip(alone, together):
        assert torch.equal(one, other)
    if definition == "paper":           # the path once for three operations, and the picture alone for the fourth
        assert len(pictures_through) - before == len(pictures) * n + len(pictures)


def test_only_the_very_pictures_share(vgg, pictures, classes):
    model = iia.wrap(vgg)
    others = pictures.flip(0)
    alone = iia.explain(model, others, classes, steps=2)
    with iia.sharing(model, pictures):
        iia.explain(model, pictures, classes, steps=2)
        assert torch.equal(iia.explain(model, others, classes, steps=2), alone)
        assert torch.equal(iia.explain(model, pictures, classes, steps=3, batch_size=5),
                           iia.explain(iia.wrap(vgg), pictures, classes, steps=3, batch_size=5))
    assert not model.shared.kept


def test_nothing_is_kept_after_an_error_and_a_vit_shares_nothing(vgg, vit, pictures):
    model = iia.wrap(vgg)
    with pytest.raises(ZeroDivisionError), iia.sharing(model, pictures):
        iia.explain(model, pictures, 0, steps=2)
        assert model.shared.kept
        raise ZeroDivisionError
    assert not model.shared.kept and model.shared.pictures is None
    with iia.sharing(iia.wrap(vit), pictures):
        pass


def test_what_is_kept_is_bounded():
    pictures, made = torch.zeros(1), []
    shared = Shared(pictures, room=12)

    def values(size):
        made.append(size)
        return torch.zeros(size)

    for key, size in (("a", 2), ("b", 2), ("c", 1)):            # 8 bytes, 8 that find no room, 4
        shared.get(pictures, (key,), lambda: values(size))
        shared.get(pictures, (key,), lambda: values(size))
    assert made == [2, 2, 2, 1]
