"""The accuracy that the measured runs reach: their sums and norms against numpy in long double.

``python -m benches.accuracy FOLDER`` prints the worst relative error of a diff and of stats, over
the first tensor of every shape of the pair, but for the embedding (long double would take 2 GB).
Means that cancel are held against the mean of the absolute values.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from benches.pair import Pair

LARGEST = 20_000_000

#: A quantity and its truth, with what the error is relative to.
Held = tuple[float, Any, Any]


def relative(held: list[Held]) -> float:
    return max(float(abs(found - truth) / scale) for found, truth, scale in held)


def wide(tensor: Any) -> Any:
    """The finite values of a torch tensor in long double, which is exact."""
    import numpy as np

    return tensor.double().numpy().astype(np.longdouble).ravel()


def of_diff(row: Any, a: Any, b: Any) -> float:
    import numpy as np

    d = b - a
    mean_abs = np.abs(d).mean()
    l2, l2_a, l2_b = (np.sqrt((values**2).sum()) for values in (d, a, b))
    held = [
        (row.mean_diff, d.mean(), mean_abs),
        (row.mean_abs, mean_abs, mean_abs),
        (row.rms, l2 / np.sqrt(d.size), l2 / np.sqrt(d.size)),
        (row.l2, l2, l2),
        (row.l2_a, l2_a, l2_a),
        (row.l2_b, l2_b, l2_b),
        (row.rel_l2, l2 / l2_a, l2 / l2_a),
    ]
    return relative([one for one in held if one[2] != 0])


def of_stats(row: Any, a: Any) -> float:
    import numpy as np

    l1, l2 = np.abs(a).sum(), np.sqrt((a**2).sum())
    std = np.sqrt(((a - a.mean()) ** 2).mean())
    held = [
        (row.mean, a.mean(), l1 / a.size),
        (row.std, std, std),
        (row.rms, l2 / np.sqrt(a.size), l2 / np.sqrt(a.size)),
        (row.l1, l1, l1),
        (row.l2, l2, l2),
    ]
    return relative([one for one in held if one[2] != 0])


def worst_errors(pair: Pair) -> dict[str, float]:
    """Of ``diff`` and ``stats``; values that are not finite stand in no pair."""
    import ckptdiff

    from benches.tools import tensors

    diff = {row.name: row for row in ckptdiff.diff(pair.a, pair.b)}
    stats = {row.name: row for row in ckptdiff.stats(pair.a)}
    seen = set()
    errors = {"diff": 0.0, "stats": 0.0}
    for (name, a), (_, b) in zip(tensors(pair.a, "pt"), tensors(pair.b, "pt"), strict=True):
        if a.shape in seen or a.numel() > LARGEST:
            continue
        seen.add(a.shape)
        wide_a = wide(a)
        errors["diff"] = max(errors["diff"], of_diff(diff[name], wide_a, wide(b)))
        errors["stats"] = max(errors["stats"], of_stats(stats[name], wide_a))
    return errors


def main() -> None:
    folder = Path(sys.argv[1])
    pair = Pair(folder / "a", folder / "b", folder / "copy")
    sys.stdout.write(json.dumps(worst_errors(pair)) + "\n")


if __name__ == "__main__":
    main()
