"""A script's variables as settings, and as flags of the command line.

A script keeps its settings between two lines of dashes at its top, each with a comment behind it:

    # ---- settings
    INTERPOLATION_STEPS = 10       # n, the steps of every path
    # ----

Each is also a flag of its own name and type (`--INTERPOLATION_STEPS=20`), listed with its comment by
`--help`. The type is that of the value, or the annotation where the value cannot tell it
(`weights_path: str | None = None`). This file imports nothing that takes long.
"""

import argparse
import ast
import re
import sys
from collections.abc import Callable
from functools import partial
from itertools import takewhile
from pathlib import Path
from types import NoneType, SimpleNamespace, UnionType
from typing import NoReturn, get_args

from .errors import UserError, did_you_mean, first_line
from .memory import keep_freed_memory


def filled(text: str) -> str:
    """The text; an empty one is a slip, such as --results_dir=$FOLDER without such a variable."""
    if not text:
        raise ValueError
    return text


SWITCH = dict.fromkeys(("true", "yes", "1"), True) | dict.fromkeys(("false", "no", "0"), False)
KINDS = {       # what a flag takes and how its text becomes a value; the first that fits counts
    NoneType: ("none", lambda text: {"none": None}[text.lower()]),
    bool: ("true|false", lambda text: SWITCH[text.lower()]),
    int: ("INT", int),
    float: ("NUMBER", float),
    list: ("A,B,...", lambda text: [part.strip() for part in text.split(",") if part.strip()]),
    str: ("TEXT", filled),
}
# Names of a choice, all of them in small letters, which may be given in any case.
ANY_CASE = {"model_name", "fallback_model_name", "operations", "definition", "device", "precision",
            "chosen_dataset", "explained_class", "quadrature", "baseline", "protocol", "tables", "networks"}


class Settings(SimpleNamespace):
    """The settings of one run as attributes; `given` are the names that came as flags."""
    given: frozenset[str] = frozenset()

    def values(self) -> dict[str, object]:
        """The settings by name, as they are saved beside the results."""
        return {name: value for name, value in vars(self).items() if name != "given"}


def run(main: Callable[[Settings], int | None], script: dict, epilog: str = "") -> NoReturn:
    """Run a script's `main` with its settings: `run(main, globals())`; `epilog` ends its `--help`.

    A UserError, and what the system says of a file or the memory, is printed as one message (exit code 2);
    Ctrl-C ends quietly (130). Otherwise the exit code is what `main` returns. The process keeps freed memory.
    """
    keep_freed_memory()
    try:
        code = main(from_flags(script, sys.argv[1:], epilog)) or 0
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        code = 2
    except OSError as error:         # a folder that may not be entered, a name that is too long, a full disk
        place = error.filename or "a file"
        print(f"error: {place} cannot be used ({error.strerror or error}).", file=sys.stderr)
        code = 2
    except (MemoryError, RuntimeError) as error:           # torch's own is a RuntimeError
        if not (isinstance(error, MemoryError) or re.search("allocate memory|out of memory", str(error))):
            raise
        print(f"error: the memory does not hold this ({first_line(error)}). Take a smaller image_size, "
              "batch_size or network.", file=sys.stderr)
        code = 2
    except KeyboardInterrupt:
        print("\nstopped; what has been written is whole.", file=sys.stderr)
        code = 130
    sys.exit(code)


def from_flags(script: dict, arguments: list[str], epilog: str = "") -> Settings:
    """The settings of a script, from its globals and the flags `arguments`.

    Raises:
        UserError: an unknown flag, or a value of the wrong type.
    """
    parser = Parser(description=script.get("__doc__"), epilog=epilog, allow_abbrev=False,
                    argument_default=argparse.SUPPRESS, formatter_class=argparse.RawDescriptionHelpFormatter)
    comments = commented_variables(Path(script["__file__"]).read_text(encoding="utf-8"))
    values = {name: script[name] for name in comments}
    for name, comment in comments.items():
        kind = script.get("__annotations__", {}).get(name, type(values[name]))
        kinds = [one for one in KINDS if one in (get_args(kind) if isinstance(kind, UnionType) else (kind,))]
        shown = ",".join(values[name]) if kind is list else values[name]
        parser.add_argument(f"--{name}", type=partial(parse, name, kinds), metavar=takes(kinds),
                            help=f"{comment} [{shown}]".replace("%", "%%"),
                            **({"nargs": "?", "const": True} if bool in kinds else {}))
    flags, wrong = parser.parse_known_args(arguments)
    if wrong:
        near = did_you_mean(wrong[0].split("=")[0].lstrip("-"), comments)
        raise UserError(f"unknown flag {wrong[0]!r}.{near} --help lists them all.")
    values |= vars(flags)
    for name in ANY_CASE & values.keys():
        if isinstance(value := values[name], (str, list)):
            values[name] = value.lower() if isinstance(value, str) else [one.lower() for one in value]
    return Settings(**values, given=frozenset(vars(flags)))


def commented_variables(source: str) -> dict[str, str]:
    """The variables between the first two lines of dashes, each with the comment behind it and, where its
    line is full, below it."""
    _, *block = source.split("\n# ---")
    block = "#" + block[0] if block else ""
    lines, found = block.encode().splitlines(), {}
    for node in ast.parse(block).body:
        if isinstance(node, (ast.Assign, ast.AnnAssign)):
            target = node.target if isinstance(node, ast.AnnAssign) else node.targets[0]
            behind = [lines[node.end_lineno - 1][node.end_col_offset:],
                      *takewhile(re.compile(rb"\s+#").match, lines[node.end_lineno:])]
            found[target.id] = " ".join(part.decode().strip(" #") for part in behind)
    return found


def parse(name: str, kinds: list[type], text: str) -> object:
    """A flag's text as the first of `kinds` that it fits; raises UserError where it fits none."""
    for kind in kinds:
        try:
            return KINDS[kind][1](text)
        except (KeyError, ValueError):
            continue
    raise UserError(f"--{name} takes {takes(kinds)}, not {text!r}.")


def takes(kinds: list[type]) -> str:
    return "|".join(KINDS[kind][0] for kind in kinds)


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(message)
