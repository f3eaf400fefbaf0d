"""A script's variables from its own first block, and from the command line.

A script keeps its settings as module-level variables at its top, each with a comment behind it:

    INTERPOLATION_STEPS = 10       # n, the steps of every path

Each is also a flag of its own name and type (`--INTERPOLATION_STEPS=20`), listed with its comment by
`--help`. The type is that of the value, or the annotation where the value cannot tell it
(`weights_path: str | None = None`).
"""

import argparse
import ast
import difflib
import io
import sys
import tokenize
import types
import typing
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

from .errors import UserError
from .memory import keep_freed_memory


class Settings(SimpleNamespace):
    """The settings of one run as attributes; `given` are the names that came as flags."""
    given: frozenset[str] = frozenset()

    def values(self) -> dict[str, object]:
        """The settings by name, as they are saved beside the results."""
        return {name: value for name, value in vars(self).items() if name != "given"}


def run(main: Callable[[Settings], int | None], script: dict, epilog: str = "") -> typing.NoReturn:
    """Run a script's `main` with its settings: `settings.run(main, globals())`; `epilog` ends its `--help`.

    A UserError, or what the system says of a file, is printed as one message (exit code 2); Ctrl-C ends
    quietly (130). Otherwise the exit code is what `main` returns. The process keeps freed memory.
    """
    keep_freed_memory()
    try:
        code = main(read(script, sys.argv[1:], epilog)) or 0
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        code = 2
    except OSError as error:              # a folder that may not be entered, a name that is too long, a full disk
        print(f"error: {error.filename or 'a file'} cannot be used ({error.strerror or error}).", file=sys.stderr)
        code = 2
    except KeyboardInterrupt:
        print("\nstopped; what has been written is whole.", file=sys.stderr)
        code = 130
    sys.exit(code)


def read(script: dict, arguments: list[str], epilog: str = "") -> Settings:
    """The settings of a script, from its globals and the flags `arguments`.

    Raises:
        UserError: an unknown flag, or a value of the wrong type.
    """
    comments = commented_variables(Path(script["__file__"]).read_text(encoding="utf-8"))
    kinds = {name: _kind(name, script) for name in comments}
    parser = _Parser(description=script.get("__doc__"), epilog=epilog, allow_abbrev=False, argument_default=argparse.SUPPRESS,
                     formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, comment in comments.items():
        default = script[name]
        shown = ",".join(default) if isinstance(default, list) else default
        help_text = f"{comment} [{shown}]".replace("%", "%%")
        bare = {"nargs": "?", "const": "true"} if bool in kinds[name] else {}
        parser.add_argument(f"--{name}", metavar=_metavar(kinds[name]), help=help_text, **bare)
    flags, rest = parser.parse_known_args(arguments)
    if rest:
        raise _unknown_flag(rest[0], list(comments))
    values = {name: script[name] for name in comments}
    values |= {name: parse(name, text, kinds[name]) for name, text in vars(flags).items()}
    settings = Settings(**values)
    settings.given = frozenset(vars(flags))
    return settings


def commented_variables(source: str) -> dict[str, str]:
    """The names that the source assigns at its top level before its first function, with the comments
    behind them (or, where the line is full, on the lines below)."""
    tree = ast.parse(source)
    comments = {token.start[0]: token.string.lstrip("# ").strip()
                for token in tokenize.generate_tokens(io.StringIO(source).readline) if token.type == tokenize.COMMENT}
    code_lines = {node.lineno for node in tree.body}
    found = {}
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            break
        target = node.target if isinstance(node, ast.AnnAssign) else getattr(node, "targets", [None])[0]
        if not isinstance(target, ast.Name) or node.end_lineno not in comments:
            continue
        lines, line = [comments[node.end_lineno]], node.end_lineno + 1
        while line in comments and line not in code_lines and not comments[line].startswith("---"):
            lines.append(comments[line])
            line += 1
        found[target.id] = " ".join(lines)
    return found


def parse(name: str, text: str, kinds: tuple[type, ...]) -> object:
    """A flag's text as the first of `kinds` that it fits: None, bool, int, float, list of names, str."""
    if type(None) in kinds and text.lower() == "none":
        return None
    if bool in kinds:
        if text.lower() in ("true", "1", "yes", "false", "0", "no"):
            return text.lower() in ("true", "1", "yes")
        raise UserError(f"--{name} is true or false, not {text!r}.")
    for kind in (int, float):
        if kind in kinds:
            try:
                return kind(text)
            except ValueError:
                continue
    if list in kinds:
        return [part.strip() for part in text.split(",") if part.strip()]
    if str in kinds:
        return text
    raise UserError(f"--{name} takes {_metavar(kinds)}, not {text!r}.")


def save(path: str | Path, settings: Settings, **more: object) -> None:
    """Write the settings (and `more`) as JSON beside the results."""
    from .runs import write_json
    write_json(path, {"settings": settings.values(), **more})


def _kind(name: str, script: dict) -> tuple[type, ...]:
    hint = script.get("__annotations__", {}).get(name, type(script[name]))
    if isinstance(hint, types.UnionType):
        return typing.get_args(hint)
    return (typing.get_origin(hint) or hint,)


def _metavar(kinds: tuple[type, ...]) -> str:
    names = {bool: "true|false", int: "INT", float: "NUMBER", str: "TEXT", list: "A,B,...", type(None): "none"}
    return "|".join(names[kind] for kind in kinds)


def _unknown_flag(flag: str, names: list[str]) -> UserError:
    name = flag.split("=")[0].lstrip("-")
    near = difflib.get_close_matches(name.lower(), [n.lower() for n in names], n=1, cutoff=0.5)
    meant = next((n for n in names if near and n.lower() == near[0]), None)
    hint = f" Did you mean --{meant}?" if meant else ""
    return UserError(f"unknown flag {flag!r}.{hint} --help lists them all.")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> typing.NoReturn:
        raise UserError(message)
