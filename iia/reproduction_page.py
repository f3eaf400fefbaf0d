"""The page of a reproduction: every table of ours, and the paper's figures beside them."""

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from .evaluation.comparison import grid, with_interval
from .runs import whole_file

# METHOD.md, section 8: {(table, network): {(operation, figure): the paper's}}
PAPER = {
    ("explanation-cnn", "resnet101"): {("iia-triple", "NEG"): 56.89, ("iia-triple", "POS"): 15.78,
                                       ("iia-triple", "INS"): 48.53, ("gradcam", "NEG"): 56.42},
    ("explanation-vit", "vit-base"): {("iia-triple", "NEG"): 58.31, ("iia-triple", "POS"): 15.02},
    ("segmentation imagenet", "convnext_base"): {("iia-triple", "mF1"): 42.32, ("lift-cam", "mF1"): 35.91},
}
DRIFT = 2                                       # points by which others who ran published tables again differ
FRACTIONS = ("segmentation", "pointing")        # the tables whose figures are in 0..1, shown in percent
OF_RUN = ("protocol", "explained_class", "baseline", "seeds", "definition")    # settings that are shown
COLUMNS = ("table", "network", "pictures", "base accuracy", "operation", "figure", "ours [95 % interval]",
           "the paper's", "inside?")


@dataclass(frozen=True)
class Result:
    """What came of a table: its summary, as `Run.write` returns it, or why there is none."""
    table: str
    network: str
    summary: dict | None
    why: str = ""

    @property
    def scale(self) -> int:
        return 100 if self.table.split()[0] in FRACTIONS else 1

    @property
    def accuracy(self) -> str:
        known = self.summary and "base accuracy" in self.summary
        return f"{100 * self.summary['base accuracy']:.1f} %" if known else ""

    def cell(self, operation: str, figure: str) -> str:
        return with_interval(self.summary, operation, figure, scale=self.scale)


def write_page(path: Path, results: Sequence[Result], done: bool) -> None:
    """Write the page; not `done`: it says that there are tables to come."""
    with whole_file(path) as temporary:
        temporary.write_text("\n\n".join(page(results, path.parent, done)) + "\n", encoding="utf-8")


def page(results: Sequence[Result], root: Path, done: bool) -> Iterator[str]:
    """The parts of the page, as Markdown. `root`: the folder that it is in."""
    yield "# Ours beside the paper's"
    if not done:
        yield "Unfinished: there are tables to come."
    if beside := [line for result in results for line in beside_the_paper(result)]:
        yield ("Compare the base accuracy first. Others who ran published tables again differed by 1 to "
               f"{DRIFT} points.")
        yield grid(COLUMNS, beside)
    for result in results:
        if result.summary:
            yield from section(result, root)
    lacking: dict[tuple[str, str], list[str]] = {}                 # {(why, network): tables}
    for result in results:
        if not result.summary:
            lacking.setdefault((result.why, result.network), []).append(result.table)
    if lacking:
        yield "## Not made"
        yield from (f"- {network}, {', '.join(tables)}:\n\n{textwrap.indent(why, ' ' * 6)}"
                    for (why, network), tables in lacking.items())


def beside_the_paper(result: Result) -> Iterator[list[str]]:
    """A line for each figure of the table that the paper reports: ours, and whether its interval holds the
    paper's."""
    summary = result.summary or {"figures": {}, "pictures": ""}
    for (operation, figure), paper in PAPER.get((result.table, result.network), {}).items():
        ours, verdict = "not made", ""
        if figure in summary["figures"].get(operation, {}):
            ours, ends = result.cell(operation, figure), summary["intervals"][operation][figure]
            mean, low, high = (result.scale * n for n in (summary["figures"][operation][figure], *ends))
            drift = f", within {DRIFT} points" * (abs(mean - paper) <= DRIFT)
            verdict = "yes" if low <= paper <= high else f"no: {mean - paper:+.2f}{drift}"
        yield [result.table, result.network, str(summary["pictures"]), result.accuracy, operation, figure,
               ours, f"{paper:.2f}", verdict]


def section(result: Result, root: Path) -> Iterator[str]:
    """A table: the base accuracy, what was explained and how, and the figures with their intervals."""
    summary, settings, identity = result.summary, result.summary["settings"], result.summary["identity"]
    base = [f"base accuracy {result.accuracy}"] if result.accuracy else []
    steps = identity.get("INTERPOLATION_STEPS", identity.get("ITERATION_STEPS"))
    facts = [*base, f"{summary['pictures']} pictures", f"{summary['skipped']['count']} skipped",
             f"{sum(summary['degenerate'].values())} degenerate maps", f"layer {identity['layer']}",
             f"n {steps}", *(f"{name} {settings[name]}" for name in OF_RUN if name in settings),
             f"weights {identity['weights']}"]
    yield f"## {result.table}, {result.network}"
    yield f"{', '.join(facts)}; in `{summary['folder'].relative_to(root)}/`"
    figures = dict.fromkeys(figure for values in summary["figures"].values() for figure in values)
    yield grid(["", *summary["figures"]],
               [[figure, *(result.cell(name, figure) for name in summary["figures"])] for figure in figures])
