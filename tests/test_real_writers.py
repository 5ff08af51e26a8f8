"""Files as the real libraries write them: safetensors, transformers, the Hub's cache."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import ckptdiff
import ml_dtypes
import numpy as np
import pytest
import torch
from safetensors.numpy import save_file as save_numpy
from safetensors.torch import save_file as save_torch
from transformers import Olmo2Config, Olmo2ForCausalLM

from tests.cli import invoke
from tests.compare import assert_rows
from tests.dtypes import DTYPES, Dtype
from tests.engine import expected_diff, expected_stats, stats_rows
from tests.samples import wild
from tests.writers import Tensor, write_hub_snapshot

#: The safetensors name of each dtype that torch can save.
TORCH_DTYPES = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "U16": torch.uint16,
    "I16": torch.int16,
    "U32": torch.uint32,
    "I32": torch.int32,
    "U64": torch.uint64,
    "I64": torch.int64,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
    "C64": torch.complex64,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
    "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
    "F8_E8M0": torch.float8_e8m0fnu,
}


def raw(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def torch_tensor(dtype: Dtype, shape: tuple[int, ...], seed: int) -> torch.Tensor:
    data = bytearray(wild(dtype, shape, seed).data)
    return torch.frombuffer(data, dtype=TORCH_DTYPES[dtype.name]).reshape(shape)


def as_tensors(state: dict[str, torch.Tensor]) -> dict[str, Tensor]:
    names = {torch_dtype: name for name, torch_dtype in TORCH_DTYPES.items()}
    return {name: Tensor(names[t.dtype], tuple(t.shape), raw(t)) for name, t in state.items()}


def test_every_dtype_that_torch_saves(tmp_path: Path) -> None:
    state = {
        name: torch_tensor(DTYPES[name], (4, 8), seed) for seed, name in enumerate(TORCH_DTYPES)
    }
    path = tmp_path / "model.safetensors"
    save_torch(state, path, metadata={"format": "pt"})
    checkpoint = ckptdiff.open(path)
    assert checkpoint.metadata == {"format": "pt"}
    assert {name: ref.dtype for name, ref in checkpoint.items()} == {n: n for n in TORCH_DTYPES}
    assert_rows(stats_rows(path), expected_stats(as_tensors(state)))


def test_packed_four_bit_floats_of_torch(tmp_path: Path) -> None:
    packed = torch.arange(256).to(torch.uint8).reshape(2, 128).view(torch.float4_e2m1fn_x2)
    path = tmp_path / "model.safetensors"
    save_torch({"w": packed}, path)
    data = packed.view(torch.uint8).numpy().tobytes()
    expected = {"w": Tensor("F4", (2, 256), data)}
    assert_rows(stats_rows(path), expected_stats(expected))


@pytest.mark.parametrize("scalar", [np.float32, np.float16, np.int64, np.uint8, np.bool_,
                                    ml_dtypes.bfloat16])  # fmt: skip
def test_what_numpy_saves(scalar: type, tmp_path: Path) -> None:
    values = np.arange(60).reshape(3, 4, 5).astype(scalar)
    save_numpy({"w": values}, tmp_path / "a.safetensors")
    report = ckptdiff.diff(tmp_path / "a.safetensors", {"w": values})
    assert report["w"].verdict == "bit_identical"
    assert report["w"].numel == 60


@pytest.fixture(scope="module")
def olmo() -> Olmo2ForCausalLM:
    torch.manual_seed(1)
    config = Olmo2Config(
        hidden_size=64,
        intermediate_size=160,
        num_hidden_layers=12,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=512,
        pad_token_id=0,
    )
    return Olmo2ForCausalLM(config).to(torch.bfloat16)


@pytest.fixture
def saved(olmo: Olmo2ForCausalLM, tmp_path: Path) -> Path:
    olmo.save_pretrained(tmp_path / "saved", max_shard_size="300KB")
    return tmp_path / "saved"


def tuned(olmo: Olmo2ForCausalLM) -> dict[str, torch.Tensor]:
    """The state of a model of which training has moved some."""
    torch.manual_seed(2)
    state = {name: t.clone() for name, t in olmo.state_dict().items()}
    for name, t in state.items():
        if "embed" not in name:
            t += (torch.randn(t.shape) * 1e-3).to(t.dtype)
    return state


def test_a_sharded_model_of_transformers(
    olmo: Olmo2ForCausalLM, saved: Path, tmp_path: Path
) -> None:
    index = json.loads((saved / "model.safetensors.index.json").read_text())
    assert len(set(index["weight_map"].values())) > 2, "the model was not sharded"
    state = tuned(olmo)
    save_torch(state, tmp_path / "tuned.safetensors")
    report = ckptdiff.diff(saved, tmp_path / "tuned.safetensors")
    expected = expected_diff(as_tensors(dict(olmo.state_dict())), as_tensors(state))
    assert_rows({row.name: row for row in report}, expected)
    assert report["model.embed_tokens.weight"].verdict == "bit_identical"
    assert report["model.layers.11.mlp.up_proj.weight"].verdict == "different"


def test_a_model_of_transformers_resharded_is_the_same(
    olmo: Olmo2ForCausalLM, saved: Path, tmp_path: Path
) -> None:
    olmo.save_pretrained(tmp_path / "whole")
    assert not (tmp_path / "whole" / "model.safetensors.index.json").exists()
    outcome = invoke("diff", saved, tmp_path / "whole")
    assert outcome.status == 0, outcome


def test_a_saved_model_against_the_one_in_memory(olmo: Olmo2ForCausalLM, saved: Path) -> None:
    report = ckptdiff.diff(saved, olmo.state_dict())
    assert report.total.verdict == "bit_identical"
    assert report.total.numel == sum(t.numel() for t in olmo.state_dict().values())


def test_a_snapshot_in_the_cache_of_the_hub(saved: Path, tmp_path: Path) -> None:
    """Relative symbolic links into blobs, by the snapshot, by its index, by a file in it."""
    shutil.copytree(saved, tmp_path / "copy")
    snapshot = write_hub_snapshot(tmp_path / "cache", saved)
    assert (snapshot / "model.safetensors.index.json").is_symlink()
    for path in (snapshot, snapshot / "model.safetensors.index.json"):
        outcome = invoke("diff", path, tmp_path / "copy")
        assert outcome.status == 0, outcome
    shard = next(snapshot.glob("model-00001-*.safetensors"))
    assert invoke("ls", shard).status == 0
    repository = tmp_path / "cache" / "models--org--name"
    assert invoke("diff", repository, tmp_path / "copy").status == 0
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(snapshot.name)
    (repository / "snapshots" / "other").mkdir()
    assert invoke("diff", repository, tmp_path / "copy").status == 0
    (tmp_path / "link").symlink_to(snapshot)
    assert invoke("diff", tmp_path / "link", tmp_path / "copy").status == 0


def test_an_exported_cast_is_recognised(olmo: Olmo2ForCausalLM, tmp_path: Path) -> None:
    """fp32 saved, bf16 exported: is this file exactly the cast of that one?"""
    torch.manual_seed(3)
    full = {name: torch.randn(t.shape) * 0.02 for name, t in olmo.state_dict().items()}
    save_torch(full, tmp_path / "full.safetensors")
    save_torch({n: t.to(torch.bfloat16) for n, t in full.items()}, tmp_path / "half.safetensors")
    paths = tmp_path / "full.safetensors", tmp_path / "half.safetensors"
    assert invoke("diff", *paths).status == 1
    outcome = invoke("diff", *paths, "--cast", "bf16")
    assert outcome.status == 0, outcome
    assert ckptdiff.diff(*paths, cast="BF16").total.verdict == "bit_identical"


@pytest.mark.parametrize("target", ["F8_E5M2", "F16", "BF16"])
def test_casts_are_those_of_torch(target: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    values = torch.from_numpy(rng.normal(0, 1, 5000) * 10.0 ** rng.uniform(-6, 6, 5000))
    full = values.to(torch.float32)
    report = ckptdiff.diff({"w": full}, {"w": full.to(TORCH_DTYPES[target])}, cast=target)
    assert report["w"].verdict == "bit_identical"
