"""Errors that a user can fix: each is one clear sentence that says what to do."""

import difflib
from collections.abc import Iterable
from importlib import import_module
from types import ModuleType


class UserError(Exception):
    """The input or the environment is wrong. Scripts print the message without a traceback."""


def did_you_mean(name: str, allowed: Iterable[str]) -> str:
    """" Did you mean 'near'?" for the nearest allowed name, in any case; "" where none is near."""
    names = {each.lower(): each for each in allowed}
    near = difflib.get_close_matches(str(name).lower(), names, n=1, cutoff=0.5)
    return f" Did you mean {names[near[0]]!r}?" if near else ""


def unknown(kind: str, name: str, allowed: Iterable[str], more: str = "") -> UserError:
    """The error for a name that is in no table: the nearest match first, then all that is allowed."""
    allowed = list(allowed)
    listed = ", ".join([*allowed, more] if more else allowed)
    return UserError(f"{kind} {name!r} is unknown.{did_you_mean(name, allowed)} Allowed: {listed}.")


def check_choice(kind: str, name: str, allowed: Iterable[str]) -> str:
    """Return `name`; raise UserError where it is none of `allowed`."""
    allowed = list(allowed)
    if name not in allowed:
        raise unknown(kind, name, allowed)
    return name


def needed(module: str, what: str, extra: str, package: str | None = None) -> ModuleType:
    """An optional library, that `what` needs; raises UserError where it is not installed.

    extra: of iia, that has it. package: what pip calls it, where that is not its module's name.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as why:
        own = module.partition(".")[0]
        if str(why.name).partition(".")[0] != own:
            raise
        raise UserError(f"{what} needs the package {package or own}, which is not installed: pip install "
                        f"{package or own} (the extra iia[{extra}] has all of them).") from why


def first_line(why: Exception) -> str:
    """What an error says, in one line."""
    return (str(why).splitlines() or [type(why).__name__])[0][:150].rstrip(".")
