"""Broken headers by the thousand: no panic, and no opinion the reference reader does not share.

The safetensors library is the reference for what is a valid file. Where the two readers differ, the
difference is written down here.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path

import ckptdiff
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, safe_open

from tests.dtypes import DTYPES
from tests.writers import Tensor, header_of, tensor

OURS = (
    ckptdiff.CheckpointNotFoundError,
    ckptdiff.InvalidCheckpointError,
    ckptdiff.CheckpointReadError,
)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz") / "fuzz.safetensors"


def ours(path: Path) -> dict[str, tuple[str, tuple[int, ...]]] | None:
    """What we read in the header; None where the file is refused. Anything else is a crash."""
    try:
        return {name: (ref.dtype, ref.shape) for name, ref in ckptdiff.open(path).items()}
    except OURS as refusal:
        message = str(refusal)
    assert "\n" not in message
    assert path.name in message
    return None


def reference(path: Path) -> dict[str, tuple[str, tuple[int, ...]]] | None:
    try:
        with safe_open(path, "numpy") as file:
            names = list(file.keys())
            slices = {name: file.get_slice(name) for name in names}
            return {n: (s.get_dtype(), tuple(s.get_shape())) for n, s in slices.items()}
    except SafetensorError:
        return None


def valid() -> tuple[dict[str, object], bytes]:
    tensors: dict[str, Tensor] = {
        "a": tensor([1.0, 2.0]),
        "b": tensor(np.zeros((2, 0)), "F64"),
        "c": Tensor("BF16", (3,), bytes(6)),
        "d": Tensor("F4", (2, 2), bytes(2)),
    }
    return header_of(tensors, {"k": "v"}), b"".join(t.data for t in tensors.values())


numbers = st.sampled_from(
    [0, 1, 2, 3, 7, 8, 9, 14, 16, -1, -8, 2**31, 2**32, 2**53, 2**61, 2**63, 2**64 - 1, 2**64]
)
scraps = st.one_of(
    numbers,
    st.sampled_from([None, True, 0.0, 8.0, 1e300, "", "F32", "F64", "U8", "bf16", [], {}, [[0]]]),
    st.lists(numbers, max_size=3),
)


def assert_the_same_opinion(path: Path, header: bytes, data: bytes) -> None:
    path.write_bytes(struct.pack("<Q", len(header)) + header + data)
    mine, theirs = ours(path), reference(path)
    unknown = mine is not None and any(dtype not in DTYPES for dtype, _ in mine.values())
    if theirs is None and unknown:
        return  # we list what we cannot decode, they refuse the file
    assert mine == theirs, header


@given(data=st.data())
@settings(max_examples=400, deadline=None, derandomize=True)
def test_changed_entries(data: st.DataObject, path: Path) -> None:
    """Entries of which a key is replaced, removed or added."""
    header, body = valid()
    for _ in range(data.draw(st.integers(1, 2), "changes")):
        name = data.draw(st.sampled_from(["a", "b", "c", "d", "__metadata__", "new"]), "tensor")
        keys = ["dtype", "shape", "data_offsets", "k", "other"]
        key = data.draw(st.sampled_from(keys), "key")
        value = data.draw(scraps, "value")
        entry = header.get(name)
        if isinstance(entry, dict) and data.draw(st.booleans(), "a key only"):
            if key in entry and data.draw(st.booleans(), "removed"):
                del entry[key]
            else:
                entry[key] = value
        else:
            header[name] = value
    body = body[: data.draw(st.sampled_from([len(body), len(body), len(body) - 1, 0]), "kept")]
    assert_the_same_opinion(path, json.dumps(header).encode(), body)


@given(
    edits=st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), min_size=1, max_size=3),
    cut=st.integers(0, 40),
)
@settings(max_examples=400, deadline=None, derandomize=True)
@example(edits=[(0, 0)], cut=0)
def test_changed_bytes(edits: list[tuple[int, int]], cut: int, path: Path) -> None:
    """Any byte of the file, its length included; and its end cut off."""
    header, body = valid()
    text = json.dumps(header).encode()
    content = bytearray(struct.pack("<Q", len(text)) + text + body)
    for position, value in edits:
        content[position % len(content)] = value
    if cut < 8:
        del content[len(content) - cut :]
    path.write_bytes(content)
    mine, theirs = ours(path), reference(path)
    if mine is None:
        # A duplicate is refused here and collapses there; all else is refused by both.
        assert theirs is None or len(theirs) < 4, bytes(content)
    elif all(dtype in DTYPES for dtype, _ in mine.values()):
        assert mine == theirs, bytes(content)


@given(garbage=st.binary(max_size=200))
@settings(max_examples=200, deadline=None, derandomize=True)
@pytest.mark.parametrize("name", ["x.safetensors", "x.safetensors.index.json", "x.bin"])
def test_garbage_is_refused(name: str, garbage: bytes, path: Path) -> None:
    target = path.with_name(name)
    target.write_bytes(garbage)
    opened = ours(target)
    assert opened is None or opened == {}
