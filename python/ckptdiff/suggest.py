"""The sentence for a name that does not exist: what it is called, and the nearest that does."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["unknown"]


def unknown(kind: str, given: str, known: Iterable[str]) -> str:
    """One line such as ``unknown column 'rel_l3'; did you mean 'rel_l2'?``.

    Where nothing is near, every known name is listed. Case and ``-`` for ``_`` do not matter.
    """
    # difflib takes some milliseconds to import, and a mistyped name is rare
    import difflib

    names = list(known)
    folded = {name.lower(): name for name in names}
    wanted = given.lower().replace("-", "_")
    near = difflib.get_close_matches(wanted, folded, n=1)
    if near:
        return f"unknown {kind} {given!r}; did you mean {folded[near[0]]!r}?"
    return f"unknown {kind} {given!r}; there is {', '.join(names)}"
