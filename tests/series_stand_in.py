"""A stand-in for the core's series: the same outputs, from its diff and stats of every pair."""

from __future__ import annotations

import numpy as np
from ckptdiff import _core


class Run:
    pass


def series(manifests, names, parents, *, threads=0, isa=None, io="auto", on_progress=None):
    def mapping(t):
        n = names[t]
        stored = manifests[t].names()
        entries = manifests[t].tensors(range(len(stored)))
        if isinstance(n, bytes):
            return {s: e for s, e, k in zip(stored, entries, n) if k == 0}
        return {s: e for s, e in zip(stored, entries)}

    maps = [mapping(t) for t in range(len(manifests))]
    everything = list(dict.fromkeys(name for one in maps for name in one))
    known = set(_core.dtype_names())
    common, not_common = [], []
    for name in everything:
        shapes = [one[name][2] if name in one and one[name][1] in known else None for one in maps]
        counts = [(shapes.count(s), -i, s) for i, s in enumerate(shapes) if s is not None]
        best = max(counts)[2]
        bad = [i for i, s in enumerate(shapes) if s != best]
        if bad:
            not_common.append((name, bad))
        else:
            common.append(name)
    order = {name: i for i, name in enumerate(manifests[0].names())}
    common.sort(key=lambda name: order[name])
    chosen = set(common)
    keep = [[s if s in chosen else None for s in m.names()] for m in manifests]
    n, t = len(manifests), len(common)

    def diff(a, b):
        return _core.diff(_core.Pairing(manifests[a], manifests[b], keep[a], keep[b]))

    run = Run()
    run.names = common
    run.stats = [_core.stats(m, names=k) for m, k in zip(manifests, keep)]
    run.diffs = [None if p < 0 else diff(p, i) for i, p in enumerate(parents)]
    number = lambda table, c: np.frombuffer(table.column(c)[1], table.column(c)[0])
    run.numel = number(run.stats[0], "numel").tolist()
    bad = sum(sum(number(s, c) for c in ("nan", "pos_inf", "neg_inf")) for s in run.stats)
    run.finite = [max(0, int(a - b)) for a, b in zip(run.numel, bad)]
    run.changed_bf16 = [None if d is None else number(d, "changed").astype("<u8").tobytes() for d in run.diffs]
    norm = np.array([number(s, "l2") for s in run.stats])
    inner = np.zeros((t, n, n))
    for i in range(n):
        for j in range(i, n):
            d = number(diff(i, j), "l2")
            inner[:, i, j] = inner[:, j, i] = (norm[i] ** 2 + norm[j] ** 2 - d**2) / 2
    step = np.eye(n)
    for i, p in enumerate(parents):
        if p >= 0:
            step[i, p] = -1
    run.gram = np.ascontiguousarray(step @ inner @ step.T).astype("<f8").tobytes()
    run.not_common = not_common
    run.bytes_read = sum(m.bytes for m in manifests)
    return run
