"""GGUF files as llama.cpp's converter makes them: names, row order, experts, splits, metadata."""

from __future__ import annotations

import json
import struct
import time
from pathlib import Path

import ckptdiff
import gguf
import numpy as np
import pytest
import torch
from ckptdiff.formats.gguf_header import read_header
from ckptdiff.naming.gguf import ARCHITECTURES, experts_name, hugging_face_name
from gguf import MODEL_ARCH, GGMLQuantizationType, GGUFWriter
from numpy.typing import NDArray
from safetensors.numpy import save_file
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)
from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

from tests.cli import invoke, measure
from tests.dtypes import DTYPES
from tests.gguf_writers import (
    PLAIN,
    Info,
    add,
    array,
    finish,
    plain,
    random_blocks,
    text,
    uint32,
    write_gguf,
    write_raw_gguf,
)
from tests.samples import CHUNK, perturbed, tame, wild
from tests.writers import Tensor, write_file

State = dict[str, NDArray[np.float32]]

HEADS, KEY_VALUE_HEADS, LAYERS = 8, 2, 3


def permuted(weights: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """The rows as the converter puts them: the halves of a head by turns."""
    split = weights.reshape(heads, 2, weights.shape[0] // heads // 2, *weights.shape[1:])
    return split.swapaxes(1, 2).reshape(weights.shape)


def converted(
    path: Path,
    state: State,
    architecture: MODEL_ARCH,
    *,
    quantisation: str | None = None,
    key_value_heads: int | list[int] | None = KEY_VALUE_HEADS,
    **options: int,
) -> Path:
    """What convert_hf_to_gguf.py makes of a state, by the package's own map of names."""
    name = gguf.MODEL_ARCH_NAMES[architecture]
    writer = GGUFWriter(path, name, **options)
    writer.add_block_count(LAYERS)
    if key_value_heads is not None:
        writer.add_head_count(HEADS)
        writer.add_head_count_kv(key_value_heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_token_list([f"token {index}" for index in range(5000)])
    names = gguf.get_tensor_name_map(architecture, LAYERS)
    for hugging_face, values in state.items():
        stored = names.get_name(hugging_face, try_suffixes=(".weight", ".bias"))
        assert stored is not None, hugging_face
        if ARCHITECTURES[name].permuted and "q_proj" in hugging_face:
            values = permuted(values, HEADS)
        if ARCHITECTURES[name].permuted and "k_proj" in hugging_face:
            values = permuted(values, KEY_VALUE_HEADS)
        if quantisation is None or values.ndim == 1:
            add(writer, stored, "F32", values)
        else:
            kind = GGMLQuantizationType[quantisation]
            add(writer, stored, quantisation, gguf.quants.quantize(values, kind))
    finish(writer)
    return path


def state_of(model: torch.nn.Module) -> State:
    return {name: value.float().numpy() for name, value in model.state_dict().items()}


@pytest.fixture(scope="module")
def llama() -> State:
    torch.manual_seed(1)
    config = LlamaConfig(
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=KEY_VALUE_HEADS,
        vocab_size=320,
        attention_bias=True,
    )
    model = LlamaForCausalLM(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    return state_of(model)


@pytest.fixture
def saved(llama: State, tmp_path: Path) -> Path:
    save_file(llama, tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


def test_a_llama_in_full_precision_is_the_model(llama: State, saved: Path, tmp_path: Path) -> None:
    """Every tensor under its name, the rows of q and k in order, bias included."""
    path = converted(tmp_path / "model.gguf", llama, MODEL_ARCH.LLAMA)
    outcome = invoke("diff", saved, path)
    assert outcome.status == 0, outcome
    report = ckptdiff.diff(saved, path)
    assert report.identical
    assert len(report) == len(llama)


def test_without_the_reordering_it_would_not_be(llama: State, saved: Path, tmp_path: Path) -> None:
    """That is, the test above can fail."""
    path = converted(tmp_path / "model.gguf", llama, MODEL_ARCH.QWEN2)
    assert ckptdiff.diff(saved, path).identical, "qwen2 has the same names and no permutation"
    content = path.read_bytes().replace(text("qwen2"), text("llama"))
    path.write_bytes(content.replace(b"qwen2.", b"llama."))
    different = {row.name for row in ckptdiff.diff(saved, path) if row.changed}
    parts = [f"{part}_proj.{kind}" for part in "qk" for kind in ("weight", "bias")]
    assert different == {
        f"model.layers.{layer}.self_attn.{part}" for layer in range(LAYERS) for part in parts
    }


@pytest.mark.parametrize("quantisation", ["Q8_0", "Q4_0", "Q5_1"])
def test_a_quantised_llama_gives_the_error_of_each_tensor(
    quantisation: str, llama: State, saved: Path, tmp_path: Path
) -> None:
    path = converted(tmp_path / "model.gguf", llama, MODEL_ARCH.LLAMA, quantisation=quantisation)
    report = ckptdiff.diff(saved, path)
    kind = GGMLQuantizationType[quantisation]
    assert {row.name for row in report} == set(llama)
    for name, values in llama.items():
        row = report[name]
        if values.ndim == 1:
            assert row.verdict == "bit_identical"
            continue
        decoded = gguf.quants.dequantize(gguf.quants.quantize(values, kind), kind)
        error = decoded.astype(np.float64) - values
        assert row.max_abs == np.abs(error).max(), name
        assert row.max_abs_index == np.unravel_index(np.abs(error).argmax(), error.shape), name
        assert row.l2 == pytest.approx(np.linalg.norm(error), rel=1e-7)
        assert row.dtype_b == quantisation


def test_rows_in_order_whatever_the_threads(llama: State, saved: Path, tmp_path: Path) -> None:
    path = converted(tmp_path / "model.gguf", llama, MODEL_ARCH.LLAMA, quantisation="Q8_0")
    texts = {
        ckptdiff.diff(saved, path, threads=threads, histogram=True).to_json()
        for threads in (1, 2, 5)
    }
    assert len(texts) == 1


def test_a_head_count_for_each_layer(llama: State, saved: Path, tmp_path: Path) -> None:
    counts = [KEY_VALUE_HEADS] * LAYERS
    path = converted(tmp_path / "a.gguf", llama, MODEL_ARCH.LLAMA, key_value_heads=counts)
    assert ckptdiff.diff(saved, path).identical


def test_without_head_counts_q_and_k_keep_their_names(llama: State, tmp_path: Path) -> None:
    """The order of their rows is not known, so they are not held against rows of another order."""
    path = converted(tmp_path / "a.gguf", llama, MODEL_ARCH.LLAMA, key_value_heads=None)
    names = set(ckptdiff.open(path))
    assert "blk.0.attn_q.weight" in names
    assert "blk.2.attn_k.bias" in names
    assert "model.layers.0.self_attn.v_proj.weight" in names


def test_phi_keeps_what_it_fuses(tmp_path: Path) -> None:
    config = Phi3Config(
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=KEY_VALUE_HEADS,
        vocab_size=320,
        pad_token_id=0,
    )
    state = state_of(Phi3ForCausalLM(config))
    save_file(state, tmp_path / "model.safetensors")
    path = converted(tmp_path / "model.gguf", state, MODEL_ARCH.PHI3)
    assert ckptdiff.diff(tmp_path / "model.safetensors", path).identical


# Names.

#: transformers' names of a layer's tensors, by the architecture that llama.cpp calls so.
FAMILIES = {
    MODEL_ARCH.LLAMA: "llama",
    MODEL_ARCH.GRANITE: "granite",
    MODEL_ARCH.OLMO: "olmo",
    MODEL_ARCH.SMOLLM3: "smollm3",
    MODEL_ARCH.OLMO2: "olmo2",
    MODEL_ARCH.OLMOE: "olmoe",
    MODEL_ARCH.QWEN2: "qwen2",
    MODEL_ARCH.QWEN2MOE: "qwen2moe",
    MODEL_ARCH.QWEN3: "qwen3",
    MODEL_ARCH.QWEN3MOE: "qwen3moe",
    MODEL_ARCH.GEMMA: "gemma",
    MODEL_ARCH.GEMMA2: "gemma2",
    MODEL_ARCH.GEMMA3: "gemma3",
    MODEL_ARCH.PHI3: "phi3",
}


def test_every_architecture_is_one_of_llama_cpp() -> None:
    assert {gguf.MODEL_ARCH_NAMES[arch] for arch in FAMILIES} == set(ARCHITECTURES)


@pytest.mark.parametrize("arch", FAMILIES, ids=lambda arch: arch.name)
def test_names_are_those_that_the_package_maps_from(arch: MODEL_ARCH) -> None:
    """Each of our names goes back to the stored one through the package's own map."""
    architecture = ARCHITECTURES[FAMILIES[arch]]
    names = gguf.get_tensor_name_map(arch, LAYERS)
    stored_names = ["token_embd", "output", "output_norm"]
    stored_names += [f"blk.2.{part}" for part in architecture.block]
    for stored in stored_names:
        found = hugging_face_name(architecture, f"{stored}.weight")
        assert found is not None, stored
        name = found[0]
        if experts_name(name, 0) is not None:
            # the package maps the names under which the converter has stacked them
            name = name.replace(".{expert}", "")
            if "block_sparse_moe" in name:
                name = name.replace("model.layers", "layers")
                name = name.replace("block_sparse_moe", "feed_forward")
        mapped = names.get_name(name, try_suffixes=(".weight", ".bias"))
        # OLMo has no norm at its end, and Gemma no output of its own
        if mapped is None and not stored.startswith("blk."):
            continue
        assert mapped == f"{stored}.weight", (name, mapped)


def test_other_architectures_and_other_tensors_keep_their_names(tmp_path: Path) -> None:
    tensors = {
        name: ("F32", np.zeros(4, np.float32))
        for name in ("blk.0.attn_q.weight", "rope_freqs.weight", "blk.0.unheard_of.weight",
                     "blk.00.ffn_norm.weight", "token_embd.weight")
    }  # fmt: skip
    other = ckptdiff.open(write_gguf(tmp_path / "a.gguf", tensors, architecture="mamba"))
    assert set(other) == set(tensors)
    assert not other.has_stored_names
    llama = ckptdiff.open(write_gguf(tmp_path / "b.gguf", tensors, architecture="llama"))
    assert "model.embed_tokens.weight" in llama
    assert llama.stored_name("model.embed_tokens.weight") == "token_embd.weight"
    assert {"rope_freqs.weight", "blk.0.unheard_of.weight", "blk.00.ffn_norm.weight"} <= set(llama)


@pytest.mark.parametrize(
    ("architecture", "expected"),
    [
        (
            "qwen3moe",
            {"gate": "mlp.experts.{}.gate_proj", "up": "mlp.experts.{}.up_proj",
             "down": "mlp.experts.{}.down_proj"},
        ),
        (
            "llama",
            {"gate": "block_sparse_moe.experts.{}.w1", "up": "block_sparse_moe.experts.{}.w3",
             "down": "block_sparse_moe.experts.{}.w2"},
        ),
    ],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["F32", "Q4_K", "Q8_0"])
def test_stacked_experts_are_a_tensor_each(
    architecture: str, expected: dict[str, str], kind: str, tmp_path: Path
) -> None:
    experts, shape = 4, (3, 256)
    tensors = {}
    state: dict[str, Tensor] = {}
    for seed, (part, name) in enumerate(expected.items()):
        if kind == "F32":
            stack = np.random.default_rng(seed).normal(size=(experts, *shape)).astype(np.float32)
            values = stack
        else:
            stack = random_blocks(kind, (experts, *shape), seed, wild=False)
            values = gguf.quants.dequantize(stack, GGMLQuantizationType[kind])
        tensors[f"blk.1.ffn_{part}_exps.weight"] = (kind, stack)
        for expert in range(experts):
            full = f"model.layers.1.{name.format(expert)}.weight"
            state[full] = Tensor("F32", shape, values[expert].tobytes())

    def settle(writer: GGUFWriter) -> None:
        writer.add_expert_count(experts)

    path = write_gguf(tmp_path / "a.gguf", tensors, architecture=architecture, settle=settle)
    full = write_file(tmp_path / "a.safetensors", state)
    report = ckptdiff.diff(full, path)
    assert report.total.changed == 0
    assert {row.name for row in report} == set(state)
    assert report.matches
    checkpoint = ckptdiff.open(path)
    assert {checkpoint.stored_name(name) for name in checkpoint} == set(tensors)
    # without the count they are whatever they are
    bare = ckptdiff.open(write_gguf(tmp_path / "b.gguf", tensors, architecture=architecture))
    assert set(bare) == set(tensors)


# Listings and metadata.


def test_ls_shows_both_names_and_the_metadata(tmp_path: Path) -> None:
    def settle(writer: GGUFWriter) -> None:
        writer.add_block_count(1)
        writer.add_layer_norm_rms_eps(1e-5)
        writer.add_name("a model")
        writer.add_bool("llama.flag", True)
        writer.add_float64("llama.double", 0.1)
        writer.add_int64("llama.negative", -(2**60))
        writer.add_array("llama.sections", [16, 24, 24, 0])
        writer.add_array("llama.floats", [0.5, 1e-5])
        writer.add_array("tokenizer.ggml.scores", [0.5] * 40)
        writer.add_array("tokenizer.ggml.tokens", ["a", "b"] * 400)

    path = write_gguf(
        tmp_path / "a.gguf",
        {
            "token_embd.weight": ("Q4_K", random_blocks("Q4_K", (3, 512), 1, wild=False)),
            "rope_freqs.weight": ("F32", np.zeros(4, np.float32)),
        },
        architecture="llama",
        settle=settle,
    )
    document = json.loads(invoke("ls", path, "--format", "json").stdout)
    assert document["a"]["format"] == "gguf"
    metadata = {
        "general.architecture": "llama",
        "general.name": "a model",
        "llama.attention.layer_norm_rms_epsilon": "1e-05",
        "llama.block_count": "1",
        "llama.flag": "true",
        "llama.double": "0.1",
        "llama.negative": str(-(2**60)),
        "llama.sections": "[16, 24, 24, 0]",
        "llama.floats": "[0.5, 1e-05]",
        "tokenizer.ggml.scores": "[40 × float32]",
        "tokenizer.ggml.tokens": "[800 × string]",
    }
    assert document["a"]["metadata"] == metadata
    rows = {row["name"]: row for row in document["tensors"]}
    assert rows["model.embed_tokens.weight"] == {
        "name": "model.embed_tokens.weight",
        "dtype": "Q4_K",
        "shape": [3, 512],
        "numel": 1536,
        "bytes": 864,
        "shard": "a.gguf",
        "stored_name": "token_embd.weight",
    }
    assert rows["rope_freqs.weight"]["stored_name"] == "rope_freqs.weight"
    for output_format in ("table", "csv", "markdown"):
        shown = invoke("ls", path, "--format", output_format).stdout
        assert "token_embd.weight" in shown, output_format
        assert "model.embed_tokens.weight" in shown, output_format
    assert "512" in invoke("ls", path).stdout


def test_numbers_are_kept_where_they_are_few(tmp_path: Path) -> None:
    """One for each layer is wanted, one for each token would only take memory."""

    def settle(writer: GGUFWriter) -> None:
        writer.add_array("few", [7] * 1024)
        writer.add_array("many", [7] * 1025)

    path = write_gguf(tmp_path / "a.gguf", {"w": ("F32", np.zeros(1, np.float32))}, settle=settle)
    metadata = read_header(str(path)).metadata
    assert metadata["few"] == (1024, "int32", (7,) * 1024)
    assert metadata["many"] == (1025, "int32", None)


def test_floats_of_the_metadata_are_the_shortest_that_read_back(tmp_path: Path) -> None:
    values = [1.0, 1e6, 0.1, 1e-6, 3.4028234663852886e38, 1.401298464324817e-45, float("inf"),
              10000.0, 500000.0, 0.08838834764831845]  # fmt: skip

    def settle(writer: GGUFWriter) -> None:
        for number, value in enumerate(values):
            writer.add_float32(f"v.{number}", value)

    path = write_gguf(tmp_path / "a.gguf", {"w": ("F32", np.zeros(1, np.float32))}, settle=settle)
    metadata = ckptdiff.open(path).metadata
    for number, value in enumerate(values):
        shown = metadata[f"v.{number}"]
        assert np.float32(shown) == np.float32(value)
        assert len(shown) <= len(repr(np.float32(value).item()))
    assert metadata["v.2"] == "0.1"
    assert metadata["v.9"] == "0.088388346"


def test_a_large_vocabulary_and_many_tensors_open_quickly(tmp_path: Path) -> None:
    tokens = b"".join(text(f"token {index}") for index in range(250_000))
    pairs = [array(f"tokenizer.{name}", 8, 250_000, tokens) for name in ("tokens", "merges")]
    # longer than what is read at once, as a whole and each
    pairs.append(array("tokenizer.scores", 6, 400_000, bytes(4 * 400_000)))
    pairs.append(array("texts", 8, 3, text("x" * 1_500_000) + text("") + text("y" * 2_000_000)))
    infos = [Info(f"blk.{index}.attn_v.weight", (1,), 0, 32 * index) for index in range(100_000)]
    pairs.append(text("general.architecture") + struct.pack("<I", 8) + text("llama"))
    path = write_raw_gguf(tmp_path / "a.gguf", infos, pairs, bytes(32 * len(infos)))
    usage = measure(["ls", path, "--include", "nothing"], tmp_path / "usage")
    # generous, as the machine may be busy: it takes half a second
    assert usage.seconds < 10
    assert usage.peak_rss < 150_000_000
    start = time.perf_counter()
    checkpoint = ckptdiff.open(path)
    assert time.perf_counter() - start < 4
    assert len(checkpoint) == 100_000
    assert checkpoint["model.layers.77.self_attn.v_proj.weight"].spans[0].length == 4


# Splits and places.


@pytest.fixture
def split(llama: State, tmp_path: Path) -> Path:
    """A directory with a model in several files."""
    directory = tmp_path / "split"
    directory.mkdir()
    converted(directory / "model.gguf", llama, MODEL_ARCH.LLAMA, split_max_tensors=10)
    assert len(list(directory.iterdir())) > 3
    return directory


def test_a_split_model_is_one_model(llama: State, saved: Path, split: Path, tmp_path: Path) -> None:
    count = len(list(split.iterdir()))
    whole = converted(tmp_path / "whole.gguf", llama, MODEL_ARCH.LLAMA)
    parts = sorted(split.iterdir())
    for path in (split, parts[0], parts[-1]):
        assert ckptdiff.diff(saved, path).identical, path
        assert ckptdiff.diff(whole, path).identical, path
        assert len(ckptdiff.open(path).files) == count
    text = ckptdiff.diff(saved, whole).to_json() or ""
    other = ckptdiff.diff(saved, split).to_json() or ""
    assert other.replace(str(split), str(whole)) == text
    assert f"in {count} shards" in invoke("ls", split).stdout


def test_a_part_that_is_missing_is_named(split: Path) -> None:
    parts = sorted(split.iterdir())
    parts[1].unlink()
    with pytest.raises(ckptdiff.CheckpointNotFoundError, match=parts[1].name):
        ckptdiff.open(parts[0])
    parts[0].unlink()
    with pytest.raises(ckptdiff.CheckpointNotFoundError, match=parts[0].name):
        ckptdiff.open(split)


def test_a_directory_must_be_clear_about_what_is_meant(split: Path) -> None:
    write_gguf(split / "mmproj.gguf", {"w": ("F32", np.zeros(1, np.float32))})
    with pytest.raises(ckptdiff.InvalidCheckpointError, match="holds 2 GGUF models"):
        ckptdiff.open(split)


def test_the_content_decides_what_a_file_is(llama: State, saved: Path, tmp_path: Path) -> None:
    path = converted(tmp_path / "model.gguf", llama, MODEL_ARCH.LLAMA)
    (tmp_path / "link").symlink_to(path)
    assert ckptdiff.diff(saved, tmp_path / "link").identical
    renamed = path.rename(tmp_path / "weights.bin")
    assert ckptdiff.open(renamed).format == "gguf"
    copied = tmp_path / "really_safetensors.gguf"
    copied.write_bytes(saved.read_bytes())
    assert ckptdiff.open(copied).format == "safetensors"


def test_version_2_and_another_alignment(tmp_path: Path) -> None:
    """Version 2 is version 3 that is little-endian; the data may begin anywhere aligned."""
    pairs = [uint32("general.alignment", 8)]
    infos = [Info("w", (3, 2), 0, 0), Info("v", (1,), 28, 24)]
    data = struct.pack("<6fd", *range(6), 0.5)
    path = write_raw_gguf(tmp_path / "a.gguf", infos, pairs, data, version=2, alignment=8)
    report = ckptdiff.diff(
        {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "v": np.array([0.5])}, path
    )
    assert report.identical


def test_shapes_of_any_rank(tmp_path: Path) -> None:
    tensors = {
        "scalar": ("F32", np.float32(7).reshape(())),
        "empty": ("F32", np.zeros((0, 3), np.float32)),
        "deep": ("F32", np.arange(24, dtype=np.float32).reshape(2, 1, 3, 4)),
    }
    report = ckptdiff.diff(
        {name: values for name, (_, values) in tensors.items()},
        write_gguf(tmp_path / "a.gguf", tensors),
    )
    assert report.identical
    assert len(report) == 3


# The rest of a file that has a type which cannot be decoded.


def test_a_type_that_is_not_supported_is_named_and_the_rest_compared(tmp_path: Path) -> None:
    odd = np.zeros((2, 66), np.uint8)
    tensors = {
        "w": ("F32", np.ones(4, np.float32)),
        "odd": ("IQ2_XXS", odd),
        "v": ("Q8_0", random_blocks("Q8_0", (1, 256), 1, wild=False)),
    }
    path = write_gguf(tmp_path / "a.gguf", tensors)
    report = ckptdiff.diff(path, path)
    assert {row.name for row in report} == {"w", "v"}
    assert [(a.name, a.dtype) for a, _ in report.unsupported] == [("odd", "IQ2_XXS")]
    assert ckptdiff.open(path)["odd"].shape == (2, 256)
    outcome = invoke("diff", path, path)
    assert outcome.status == 1
    assert "tensor 'odd' is left out: its dtype IQ2_XXS is not supported" in outcome.stderr
    assert invoke("stats", path).status == 0
    assert "IQ2_XXS" in invoke("ls", path).stdout


def test_a_type_that_nobody_knows_can_be_listed(tmp_path: Path) -> None:
    infos = [Info("new", (5,), 99, 0), Info("w", (2,), 0, 64)]
    path = write_raw_gguf(tmp_path / "a.gguf", infos, (), bytes(64) + struct.pack("<2f", 1, 2))
    assert ckptdiff.open(path)["new"].dtype == "type 99"
    report = ckptdiff.diff(path, {"w": np.array([1, 2], np.float32), "new": np.zeros(5)})
    assert report["w"].verdict == "bit_identical"
    assert len(report.unsupported) == 1


# Determinism: the same tensors, the same text.


def test_the_json_is_that_of_safetensors(tmp_path: Path) -> None:
    tensors = {
        f"{name}.{length}": wild(DTYPES[name], (length,), seed)
        for seed, name in enumerate(PLAIN)
        for length in (1, 1000, 5000)
    }
    tensors |= {
        f"large.{name}": tame(DTYPES[name], (2, CHUNK + 6), seed)
        for seed, name in enumerate(("BF16", "F32", "F16"))
    }
    others = {name: perturbed(tensor, 7, share=0.02) for name, tensor in tensors.items()}
    texts = set()
    described = set()
    for suffix in ("safetensors", "gguf"):
        paths = []
        for side, state in (("a", tensors), ("b", others)):
            path = tmp_path / f"{side}.{suffix}"
            if suffix == "gguf":
                write_gguf(path, {name: plain(tensor) for name, tensor in state.items()})
            else:
                write_file(path, state)
            paths.append(path)
        options = {"thresholds": (0.0, 1e-4), "histogram": True, "atol": 1e-3, "rtol": 1e-3}
        text = ckptdiff.diff(*paths, **options).to_json() or ""
        texts.add(text.replace(suffix, ""))
        text = ckptdiff.stats(paths[0], histogram=True, content_hash=True).to_json() or ""
        described.add(text.replace(suffix, ""))
    assert len(texts) == 1
    assert len(described) == 1


# transformers reads GGUF, too, and gives back the model's own state.


def small_model(architecture: MODEL_ARCH) -> torch.nn.Module:
    common = {
        "hidden_size": 256,
        "intermediate_size": 512,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KEY_VALUE_HEADS,
        "vocab_size": 320,
        "pad_token_id": 0,
    }
    kinds: dict[MODEL_ARCH, tuple[type, type, dict[str, int]]] = {
        MODEL_ARCH.LLAMA: (LlamaConfig, LlamaForCausalLM, {}),
        MODEL_ARCH.QWEN2: (Qwen2Config, Qwen2ForCausalLM, {}),
        MODEL_ARCH.QWEN3: (Qwen3Config, Qwen3ForCausalLM, {"head_dim": 32}),
        MODEL_ARCH.PHI3: (Phi3Config, Phi3ForCausalLM, {}),
        MODEL_ARCH.GEMMA2: (Gemma2Config, Gemma2ForCausalLM, {"head_dim": 32}),
    }
    config, model, more = kinds[architecture]
    torch.manual_seed(2)
    made: torch.nn.Module = model(config(**common, **more))
    return made


READABLE = [
    MODEL_ARCH.LLAMA,
    MODEL_ARCH.QWEN2,
    MODEL_ARCH.QWEN3,
    MODEL_ARCH.PHI3,
    MODEL_ARCH.GEMMA2,
]


@pytest.mark.parametrize("kind", ["Q4_K", "Q6_K", "Q8_0", "Q2_K"])
@pytest.mark.parametrize("arch", READABLE, ids=lambda arch: arch.name)
def test_values_are_those_that_transformers_loads(
    arch: MODEL_ARCH, kind: str, tmp_path: Path
) -> None:
    """Random blocks under every name: transformers' own reader says what they are worth."""
    model = small_model(arch)
    name = gguf.MODEL_ARCH_NAMES[arch]
    names = gguf.get_tensor_name_map(arch, LAYERS)
    tensors: dict[str, tuple[str, NDArray[np.generic]]] = {}
    for seed, (hugging_face, value) in enumerate(model.state_dict().items()):
        stored = names.get_name(hugging_face, try_suffixes=(".weight", ".bias"))
        if stored is None:
            # the tied output of Gemma
            assert hugging_face == "lm_head.weight"
            continue
        shape = tuple(value.shape)
        if len(shape) == 1:
            values = np.random.default_rng(seed).normal(1, 0.1, shape).astype(np.float32)
            tensors[stored] = ("F32", values)
        else:
            tensors[stored] = (kind, random_blocks(kind, shape, seed, wild=False))

    def settle(writer: GGUFWriter) -> None:
        writer.add_name("a model")
        writer.add_block_count(LAYERS)
        writer.add_head_count(HEADS)
        writer.add_head_count_kv(KEY_VALUE_HEADS)

    path = write_gguf(tmp_path / "a.gguf", tensors, architecture=name, settle=settle)
    loaded = load_gguf_checkpoint(str(path), return_tensors=True, model_to_load=model)["tensors"]
    assert len(loaded) == len(tensors)
    report = ckptdiff.diff(loaded, path)
    assert {row.name for row in report} == set(loaded)
    if arch != MODEL_ARCH.GEMMA2:
        assert report.matches
        return
    # The converter adds 1 to Gemma's norms, which transformers takes back and we cannot.
    assert "added 1" in invoke("ls", path).stdout
    for row in report:
        if "norm" in row.name:
            assert row.mean_diff == pytest.approx(1, abs=1e-6), row.name
            assert row.max_abs == pytest.approx(1, abs=1e-6)
        else:
            assert row.verdict == "equal", row.name
