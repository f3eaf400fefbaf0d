"""Networks of a few lines whose answers are known, in the dress that the explanation tests expect."""

import torch
from torch import nn

from iia.datasets.pictures import denormalise


class Toy(nn.Module):
    """What a network of this project has besides its layers; it counts the rows of each pass."""

    name = label = "toy"
    mean, std, channels = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3), 3
    classes, labels = 1000, None
    upsampling = "bicubic"

    def __init__(self, size=16):
        super().__init__()
        self.size, self.passes = (size, size), []
        self.register_buffer("nothing", torch.zeros(1))

    @property
    def device(self):
        return self.nothing.device

    def cut(self, layer):
        return 1

    def forward(self, x):
        self.passes.append(len(x))
        return self.logits(x)


class ReadsOnePixel(Toy):
    """f = [0, 8 (red of one pixel − 1/2)]: class 1 where the raw pixel at `place` is lit, softmax
    1/(1 + exp(∓4))."""

    def __init__(self, place=(5, 9), size=16):
        super().__init__(size)
        self.place = place

    def logits(self, x):
        red = denormalise(x, self.mean, self.std)[:, 0, *self.place]
        return torch.stack([torch.zeros_like(red), 8 * (red - 0.5)], 1)


class Scrambles(Toy):
    """A small convolutional network with random weights: every pixel matters, none in a simple way."""

    def __init__(self, size=16, classes=4):
        super().__init__(size)
        with torch.random.fork_rng():
            torch.manual_seed(3)
            self.net = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.Tanh(), nn.Conv2d(8, classes, 3),
                                     nn.Flatten(2))

    def logits(self, x):
        return 6 * self.net(x).mean(2)


class Remembers(Toy):
    """f = [0, 9 − 250 d + 8 sin(150 d)], d = mean |raw − the picture it remembers|: the surer of class 1 the
    more of it is there, but not at every step."""

    def __init__(self, picture):
        super().__init__(picture.shape[-1])
        self.register_buffer("picture", picture)

    def logits(self, x):
        far = (denormalise(x, self.mean, self.std) - self.picture).abs().mean((1, 2, 3))
        return torch.stack([torch.zeros_like(far), 9 - 250 * far + 8 * (150 * far).sin()], 1)
