"""The protocols of the explanation tests: what each does, and what its figures are (METHOD.md, section 8).

A figure depends on what a masked pixel becomes and on whose class is asked for, so two protocols' figures of
one name are different things. A run has one protocol; docs/protocols.md says more.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from ..errors import check_choice
from . import information_curves as information


@dataclass(frozen=True)
class Metric:
    """A column of the table.

    better: "higher" or "lower". what: what it says. percent: whether it is a percentage, or -1..1.
    x, y: what the axes of its curve say; no x = it is not the area under a curve.
    """
    better: str
    what: str
    percent: bool = True
    x: str = ""
    y: str = "softmax"

    @property
    def arrow(self) -> str:
        return {"higher": "↑", "lower": "↓"}[self.better]


@dataclass(frozen=True)
class Protocol:
    """figures: the columns by name.

    asked: whose answer counts, that of the "target" class or of the "predicted" one.
    black: whether a masked pixel is black before normalisation, or 0 after it, the mean colour.
    thresholds, sure: of AIC and SIC, as `information_curves`.
    """
    figures: dict[str, Metric]
    asked: str = "target"
    black: bool = False
    thresholds: Sequence[float] = information.THRESHOLDS
    sure: information.Sure = field(default_factory=lambda: information.SURE)


MOST, LEAST = "share of the most relevant masked", "share of the least relevant masked"
SHOWN = "information shown"
MASKED = {
    "POS": Metric("lower", "area under top-1 as the most relevant are masked, 0..90", x=MOST, y="top-1"),
    "NEG": Metric("higher", "area under top-1 as the least relevant are masked, 0..90", x=LEAST, y="top-1"),
    "DEL": Metric("lower", "area under the softmax as the most relevant are masked, 0..90", x=MOST),
    "INS": Metric("higher", "area under the softmax as the least relevant are masked, 0..90", x=LEAST),
    "ADP": Metric("lower", "mean drop of the softmax when the picture is seen through its map, %"),
    "PIC": Metric("higher", "share of pictures whose softmax rises when seen through their map, %"),
    "AIC": Metric("higher", "area under top-1 over the information, 0..1", False, SHOWN, "top-1, scaled"),
    "SIC": Metric("higher", "area under the softmax over the information, 0..1", False, SHOWN,
                  "softmax, scaled"),
    "SRG": Metric("higher", "NEG - POS"),
    "INS-DEL": Metric("higher", "INS - DEL"),
}
ADD = {"ADD": Metric("higher", "mean drop of the softmax when the map's part is taken away, %")}
RISE = {
    "DEL": Metric("lower", "deletion, 224 pixels a step, 0..1", False, "share deleted"),
    "INS": Metric("higher", "insertion, 224 pixels a step, 0..1", False, "share inserted"),
    "INS-DEL": Metric("higher", "INS - DEL", False),
}
ROAD = {
    "ROAD_most": Metric("lower", "mean change of the softmax as the most relevant are imputed", False, MOST),
    "ROAD_least": Metric("higher", "mean change of the softmax as the least relevant are imputed", False,
                         LEAST),
    "ROAD_combined": Metric("higher", "(ROAD_least - ROAD_most) / 2", False),
}
# {figure: (higher, lower, factor)}: factor x (higher - lower), of one picture's figures
DIFFERENCES = {"SRG": ("NEG", "POS", 1), "INS-DEL": ("INS", "DEL", 1),
               "ROAD_combined": ("ROAD_least", "ROAD_most", 0.5)}

PROTOCOLS = {
    "paper": Protocol(MASKED, black=True),
    "bee": Protocol(MASKED | ADD, asked="predicted", thresholds=(.005, .01, .03, .08, .10, .21, .34, .5, .75),
                    sure=information.PROBABLE),
    "rise": Protocol(RISE),
    "road": Protocol(ROAD),
}
PAPER = tuple(MASKED)


def chosen_figures(protocol: str, names: Sequence[str] | None) -> dict[str, Metric]:
    """The named figures of a protocol, each once; None = all of them.

    Raises:
        UserError: no such protocol, or a figure that it does not have.
    """
    figures = PROTOCOLS[check_choice("protocol", protocol, PROTOCOLS)].figures
    names = figures if names is None else names
    return {name: figures[check_choice(f"figure of protocol {protocol}", name, figures)] for name in names}
