"""Errors that a user can mend: each is one clear sentence that says what to do."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Something outside the code is amiss. Scripts print the message without a traceback."""


def unknown(kind: str, name: str, allowed: Iterable[str], more: str = "") -> UserError:
    """The error for a name that is in no table: the nearest match first, then all that is allowed."""
    allowed = list(allowed)
    near = difflib.get_close_matches(str(name), allowed, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return UserError(f"{kind} {name!r} is unknown.{hint} Allowed: {', '.join([*allowed, more] if more else allowed)}.")


def check_choice(kind: str, name: str, allowed: Iterable[str]) -> str:
    """Return name when it is one of `allowed`; raise UserError otherwise."""
    allowed = list(allowed)
    if name not in allowed:
        raise unknown(kind, name, allowed)
    return name
