"""Errors that a user can fix: each is one clear sentence that says what to do."""

import contextlib
import difflib
import re
from collections.abc import Iterable, Iterator
from importlib import import_module
from types import ModuleType


class UserError(Exception):
    """The input or the environment is wrong. Scripts print only the message, without a traceback."""


def did_you_mean(name: str, allowed: Iterable[str]) -> str:
    """" Did you mean 'near'?" for the nearest allowed name, whatever its case; "" where none is near."""
    names = {each.lower(): each for each in allowed}
    near = difflib.get_close_matches(str(name).lower(), names, n=1, cutoff=0.5)
    return f" Did you mean {names[near[0]]!r}?" if near else ""


def unknown(kind: str, name: str, allowed: Iterable[str], more: str = "") -> UserError:
    """The error for an unknown name; its message has the nearest match, then all names that are allowed."""
    allowed = list(allowed)
    listed = ", ".join([*allowed, more] if more else allowed)
    return UserError(f"{kind} {name!r} is unknown.{did_you_mean(name, allowed)} Allowed: {listed}.")


def check_choice(kind: str, name: str, allowed: Iterable[str]) -> str:
    """Return `name`; raise UserError where it is none of `allowed`."""
    allowed = list(allowed)
    if name not in allowed:
        raise unknown(kind, name, allowed)
    return name


def needed(module: str, user: str, extra: str, package: str | None = None) -> ModuleType:
    """Import an optional library that `user` needs; raise UserError where it is not installed.

    extra: the extra of iia that installs it. package: pip's name for it, where the module has another.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as why:
        library = module.partition(".")[0]
        if str(why.name).partition(".")[0] != library:
            raise
        raise UserError(f"{user} needs the package {package or library}, which is not installed: pip install "
                        f"{package or library} (the extra iia[{extra}] has all of them).") from why


@contextlib.contextmanager
def rephrased(failure: str, remedy: str = "", kind: type[UserError] = UserError) -> Iterator[None]:
    """Raise "{failure} ({reason}){remedy}" where the block fails to read what others wrote.

    Every exception counts, since readers raise whatever a broken file leads them to. A UserError that the
    block raises says enough already, and passes as it is; so does a lack of memory, which is no fault of the
    file.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as why:
        if lacks_memory(why):
            raise
        raise kind(f"{failure} ({type(why).__name__}: {first_line(why)}){remedy}") from why


def lacks_memory(why: Exception) -> bool:
    """Whether an error is of too little memory; torch raises a RuntimeError for it."""
    return isinstance(why, MemoryError) or (isinstance(why, RuntimeError) and
                                            bool(re.search("allocate memory|out of memory", str(why))))


def first_line(why: Exception) -> str:
    """The first line of what an error says."""
    return (str(why).splitlines() or [type(why).__name__])[0][:150].rstrip(".")
