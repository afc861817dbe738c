"""Keyword arguments that a function takes through `**kwargs`: unknown ones are refused, never ignored."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

from alm.common.errors import UserError


def refuse_unknown(what: str, given: Iterable[str], known: Iterable[str]) -> None:
    """Refuse keyword arguments that would be ignored; `transformers`' private ones (`_...`) pass.

    Args:
        what: The function, for the message.
        given: Names of the arguments given.
        known: Names that it takes.

    Raises:
        UserError: Names the first unknown argument and the nearest known one.
    """
    names = sorted(known)
    for name in given:
        if name not in names and not name.startswith("_"):
            near = get_close_matches(name, names, n=1, cutoff=0.6)
            hint = f"did you mean '{near[0]}'?" if near else f"it takes {', '.join(names)}"
            raise UserError(f"{what} does not take '{name}'; {hint}")
