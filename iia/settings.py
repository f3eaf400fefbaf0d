"""A script's variables as settings, and as flags of the command line.

A script keeps its settings between two lines of dashes at its top, each followed by a comment:

    # ---- settings
    INTERPOLATION_STEPS = 10       # n, the steps of every path
    # ----

Each is also a flag of the same name and type (`--INTERPOLATION_STEPS=20`), which `--help` lists with the
comment. The type is that of the value, or the annotation where the value cannot tell
(`weights_path: str | None = None`). Nothing that takes long is imported here.
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

from .errors import UserError, did_you_mean, first_line, lacks_memory
from .memory import keep_freed_memory


def filled(text: str) -> str:
    """The text. An empty one is a slip, as of --results_dir=$FOLDER where the shell has no such variable."""
    if not text:
        raise ValueError
    return text


SWITCH = dict.fromkeys(("true", "yes", "1"), True) | dict.fromkeys(("false", "no", "0"), False)
TYPES = {       # what a flag of each type takes, and how its text becomes a value; the first that fits counts
    NoneType: ("none", lambda text: {"none": None}[text.lower()]),
    bool: ("true|false", lambda text: SWITCH[text.lower()]),
    int: ("INT", int),
    float: ("NUMBER", float),
    list: ("A,B,...", lambda text: [part.strip() for part in text.split(",") if part.strip()]),
    str: ("TEXT", filled),
}
# Settings that take names in small letters, which may be given in any case.
ANY_CASE = {"model_name", "fallback_model_name", "operations", "definition", "device", "precision",
            "chosen_dataset", "explained_class", "quadrature", "baseline", "protocol", "tables", "networks"}
LISTS = {"operations", "tables", "networks", "figures"}


class NoSetting(UserError, AttributeError):
    """A script lacks a variable that is read."""


class Settings(SimpleNamespace):
    """The settings of one run as attributes; `given` has the names of those that came as flags.

    Raises:
        NoSetting: of one that is read and that the script does not have.
    """
    given: frozenset[str] = frozenset()

    def __getattr__(self, name: str) -> NoReturn:
        raise NoSetting(f"the script has no setting {name} at its top.{did_you_mean(name, vars(self))} "
                        "Give it its name back.")

    def values(self) -> dict[str, object]:
        """The settings by name, to be saved beside the results."""
        return {name: value for name, value in vars(self).items() if name != "given"}


def run(main: Callable[[Settings], int | None], script: dict, epilog: str = "") -> NoReturn:
    """Run a script's `main` with its settings: `run(main, globals())`; `epilog` is shown below its `--help`.

    The exit code is what `main` returns. A UserError, a file that the system refuses and a lack of memory are
    printed as one message (exit code 2). Ctrl-C ends the script quietly (130). The process keeps freed
    memory.
    """
    keep_freed_memory()
    try:
        sys.exit(main(from_flags(script, sys.argv[1:], epilog)) or 0)
    except KeyboardInterrupt:
        print("\nstopped; what has been written is whole.", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        if lacks_memory(error):
            message = (f"there is not enough memory for this ({first_line(error)}). Take a smaller "
                       "image_size, batch_size or network.")
        elif isinstance(error, UserError):
            message = str(error)
        elif isinstance(error, OSError):     # a folder that may not be entered, a long name, a full disk
            message = f"{error.filename or 'a file'} cannot be used ({error.strerror or error})."
        else:
            raise
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)


def from_flags(script: dict, arguments: list[str], epilog: str = "") -> Settings:
    """The settings of a script, from its globals and the flags in `arguments`.

    Raises:
        UserError: a flag is unknown, or its value has the wrong type.
    """
    parser = Parser(description=script.get("__doc__"), epilog=epilog, allow_abbrev=False,
                    argument_default=argparse.SUPPRESS, formatter_class=argparse.RawDescriptionHelpFormatter)
    comments = commented_variables(Path(script["__file__"]).read_text(encoding="utf-8"))
    annotations = script.get("__annotations__", {})
    values = {name: as_written(name, script[name], name in annotations) for name in comments}
    for name, comment in comments.items():
        annotation = annotations.get(name, type(values[name]))
        allowed = get_args(annotation) if isinstance(annotation, UnionType) else (annotation,)
        types = [type_ for type_ in TYPES if type_ in allowed]
        default = ",".join(values[name]) if isinstance(values[name], list) else values[name]
        parser.add_argument(f"--{name}", type=partial(parse, name, types), metavar=accepted(types),
                            help=f"{comment} [{default}]".replace("%", "%%"),
                            **({"nargs": "?", "const": True} if bool in types else {}))
    flags, rest = parser.parse_known_args(arguments)
    if rest:
        if not rest[0].startswith("-"):
            raise UserError(f"{rest[0]!r} is no flag. The values of a list are joined by commas: "
                            "--operations=iia,gradcam.")
        near = did_you_mean(rest[0].split("=")[0].lstrip("-"), comments)
        raise UserError(f"unknown flag {rest[0]!r}.{near} --help lists them all.")
    values |= vars(flags)
    for name in ANY_CASE & values.keys():
        if isinstance(value := values[name], (str, list)):
            values[name] = value.lower() if isinstance(value, str) else [item.lower() for item in value]
    return Settings(**values, given=frozenset(vars(flags)))


def as_written(name: str, value: object, annotated: bool) -> object:
    """The value of a variable of the script; text in the place of a list is read as its flag is.

    Raises:
        UserError: the value is None, where no annotation allows it, or a list of other things than text.
    """
    if name in LISTS and isinstance(value, str):
        return TYPES[list][1](value)
    if value is None and not annotated:
        raise UserError(f"{name} is None at the top of the script; give it a value.")
    if isinstance(value, list) and not all(isinstance(item, str) for item in value):
        raise UserError(f"{name} is {value!r} at the top of the script; a list there holds texts alone.")
    return value


def commented_variables(source: str) -> dict[str, str]:
    """The variables between the first two lines of dashes, each with the comment that follows it, which may
    go on in the lines below."""
    block = "#" + (source + "\n# ---").split("\n# ---")[1]
    lines, comments = block.encode().splitlines(), {}         # bytes, in which ast counts its columns
    for node in ast.parse(block).body:
        if isinstance(node, (ast.Assign, ast.AnnAssign)):
            target = node.target if isinstance(node, ast.AnnAssign) else node.targets[0]
            parts = [lines[node.end_lineno - 1][node.end_col_offset:],
                     *takewhile(re.compile(rb"\s+#").match, lines[node.end_lineno:])]
            comments[target.id] = " ".join(part.decode().strip(" #") for part in parts)
    return comments


def parse(name: str, types: list[type], text: str) -> object:
    """The text of a flag as the first of these types that it fits; raises UserError where it fits none."""
    for type_ in types:
        try:
            return TYPES[type_][1](text)
        except (KeyError, ValueError):
            continue
    raise UserError(f"--{name} takes {accepted(types)}, not {text!r}.")


def accepted(types: list[type]) -> str:
    """What a flag of these types takes, as `--help` shows it."""
    return "|".join(TYPES[type_][0] for type_ in types)


class Parser(argparse.ArgumentParser):
    """argparse's, which ends the process by itself at a wrong flag; here it raises UserError."""

    def error(self, message: str) -> NoReturn:
        raise UserError(message)
