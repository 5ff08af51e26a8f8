"""Maps between layouts: the same weights in two of them are the same, whatever they are called."""

from __future__ import annotations

import itertools
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ckptdiff
import numpy as np
import pytest
import safetensors.numpy
import torch
from ckptdiff.naming.mapping import find_map, mapped
from ckptdiff.naming.wrappers import without_wrappers

from tests import layouts
from tests.layouts import (
    EXPERTS,
    HEAD,
    HIDDEN,
    KEY_VALUE_HEADS,
    LAYERS,
    NORMS_AFTER,
    NORMS_BEFORE,
    VOCABULARY,
    WIDTH,
    State,
    experts_one_by_one,
    hugging_face_model,
    state_of,
)


def assert_same(a: object, b: State, map_name: str | None) -> ckptdiff.DiffReport:
    """Every tensor of both sides has a partner with the same bits, by the map of that name."""
    report = ckptdiff.diff(a, b)  # type: ignore[arg-type]
    assert report.map == map_name
    assert report.identical, report
    assert list(report.rows.values("name")) == ckptdiff.open(b).names()
    assert report.coverage["a"].complete
    assert report.coverage["b"].complete
    return report


@pytest.fixture(scope="module")
def olmo2() -> State:
    return state_of(hugging_face_model("Olmo2"))


FAMILIES = [
    ("Olmo2", NORMS_AFTER),
    ("Olmo3", NORMS_AFTER),
    ("Llama", NORMS_BEFORE),
    ("Qwen3", NORMS_BEFORE),
    ("Olmo", {}),
]


@pytest.mark.parametrize(("family", "norms"), FAMILIES, ids=[family for family, _ in FAMILIES])
def test_every_layout_against_every_other(family: str, norms: dict[str, str]) -> None:
    hf = state_of(hugging_face_model(family))
    forms = {
        "hf": hf,
        "olmo-core": layouts.olmo_core(hf, norms),
        "olmo": layouts.olmo(hf, norms),
    }
    for (name_a, a), (name_b, b) in itertools.permutations(forms.items(), 2):
        report = assert_same(a, b, f"{name_a}-to-{name_b}")
        assert len(report) == len(b)


def test_key_and_value_heads_of_their_own_number(olmo2: State) -> None:
    """Grouped queries: k and v have fewer rows than q, and each row is where it belongs."""
    old = layouts.olmo(olmo2, NORMS_AFTER)
    key_rows = KEY_VALUE_HEADS * HEAD
    fused = old["transformer.blocks.1.att_proj.weight"] = old[
        "transformer.blocks.1.att_proj.weight"
    ].copy()
    assert fused.shape == (WIDTH + 2 * key_rows, WIDTH)
    fused[WIDTH + 3, 5] += 1
    fused[WIDTH + key_rows + 1, 2] += 2
    report = ckptdiff.diff(old, olmo2)
    changed = {row.name: row for row in report if row.changed}
    attention = "model.layers.1.self_attn"
    assert set(changed) == {f"{attention}.k_proj.weight", f"{attention}.v_proj.weight"}
    assert changed[f"{attention}.k_proj.weight"].max_abs_index == (3, 5)
    assert changed[f"{attention}.v_proj.weight"].max_abs_index == (1, 2)
    into = ckptdiff.diff(olmo2, old)
    changed = {row.name: row for row in into if row.changed}
    assert set(changed) == {"transformer.blocks.1.att_proj.weight"}
    row = changed["transformer.blocks.1.att_proj.weight"]
    assert (row.changed, row.max_abs_index) == (2, (WIDTH + key_rows + 1, 2))


def test_biases_of_the_first_code_base() -> None:
    rng = np.random.default_rng(3)

    def random(*shape: int) -> layouts.Array:
        return rng.normal(size=shape).astype(np.float32)

    key_rows = KEY_VALUE_HEADS * HEAD
    old = {
        "transformer.wte.weight": random(VOCABULARY, WIDTH),
        "transformer.blocks.0.att_proj.weight": random(WIDTH + 2 * key_rows, WIDTH),
        "transformer.blocks.0.att_proj.bias": random(WIDTH + 2 * key_rows),
        # no gate: the activation is not gated
        "transformer.blocks.0.ff_proj.weight": random(HIDDEN, WIDTH),
        "transformer.blocks.0.ff_proj.bias": random(HIDDEN),
        "transformer.blocks.0.ff_out.weight": random(WIDTH, HIDDEN),
    }
    hf = {"model.embed_tokens.weight": old["transformer.wte.weight"]}
    for kind in ("weight", "bias"):
        rows = np.split(
            old[f"transformer.blocks.0.att_proj.{kind}"], [WIDTH, WIDTH + key_rows], axis=0
        )
        for part, value in zip("qkv", rows, strict=True):
            hf[f"model.layers.0.self_attn.{part}_proj.{kind}"] = value
        hf[f"model.layers.0.mlp.up_proj.{kind}"] = old[f"transformer.blocks.0.ff_proj.{kind}"]
    hf["model.layers.0.mlp.down_proj.weight"] = old["transformer.blocks.0.ff_out.weight"]
    assert_same(old, hf, "olmo-to-hf")
    assert_same(hf, old, "hf-to-olmo")


# OLMo-core's own conversion.


@pytest.fixture(scope="module")
def convert() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip(
            "olmo_core.nn.hf.convert", reason="ai2-olmo-core is not installed", exc_type=ImportError
        )


@pytest.mark.parametrize("family", ["Olmo2", "Olmo3", "Llama", "Qwen3"])
def test_olmo_cores_conversion_there_and_back(family: str, convert: Any, tmp_path: Path) -> None:
    model = hugging_face_model(family)
    hf = model.state_dict()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        native = convert.convert_state_from_hf(
            model.config, dict(hf), model_type=model.config.model_type
        )
        back = convert.convert_state_to_hf(model.config, dict(native))
    torch.save(dict(native), tmp_path / "native.pt")
    model.save_pretrained(tmp_path / "hf")
    there = ckptdiff.diff(tmp_path / "native.pt", tmp_path / "hf")
    assert (there.map, there.identical, len(there)) == ("olmo-core-to-hf", True, len(hf))
    again = ckptdiff.diff(back, native)
    assert (again.map, again.identical, len(again)) == ("hf-to-olmo-core", True, len(native))


def native_mixture(expert_rows: int) -> dict[str, torch.Tensor]:
    """A model of OLMo-core with experts, as ``MoEMLP`` (not dropless) has them."""
    generator = torch.Generator().manual_seed(5)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    state = {
        "embeddings.weight": random(VOCABULARY, WIDTH),
        "lm_head.norm.weight": random(WIDTH),
        "lm_head.w_out.weight": random(VOCABULARY, WIDTH),
    }
    for layer in range(LAYERS):
        block, moe = f"blocks.{layer}", f"blocks.{layer}.feed_forward_moe"
        for part in ("w_q", "w_k", "w_v", "w_out"):
            state[f"{block}.attention.{part}.weight"] = random(WIDTH, WIDTH)
        for norm in ("attention_norm", "feed_forward_norm", "attention.q_norm", "attention.k_norm"):
            state[f"{block}.{norm}.weight"] = random(WIDTH)
        state[f"{moe}.router.weight"] = random(EXPERTS * WIDTH)
        state[f"{moe}.experts.mlp.w1"] = random(EXPERTS * WIDTH, expert_rows)
        state[f"{moe}.experts.mlp.w2"] = random(EXPERTS * expert_rows, WIDTH)
        state[f"{moe}.experts.mlp.w3"] = random(EXPERTS * WIDTH, expert_rows)
    return state


@pytest.mark.parametrize("expert_rows", [24, WIDTH])
def test_experts_as_olmo_core_converts_them(expert_rows: int, convert: Any, tmp_path: Path) -> None:
    native = native_mixture(expert_rows)
    config = SimpleNamespace(model_type="flex_olmo", num_hidden_layers=LAYERS, num_experts=EXPERTS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        hf = convert.convert_state_to_hf(config, dict(native))
    torch.save(native, tmp_path / "native.pt")
    torch.save(hf, tmp_path / "hf.pt")
    for a, b, count in (("native", "hf", len(hf)), ("hf", "native", len(native))):
        report = ckptdiff.diff(tmp_path / f"{a}.pt", tmp_path / f"{b}.pt")
        assert report.identical, report
        assert len(report) == count


# Experts.


def as_hugging_face(native: dict[str, torch.Tensor]) -> State:
    """By hand what the conversion does, so that it is held where OLMo-core is not installed."""
    arrays = {name: value.numpy() for name, value in native.items()}
    plain = {name: value for name, value in arrays.items() if "_moe" not in name}
    result = {}
    table = {theirs: ours for ours, theirs in (layouts._BLOCK | NORMS_AFTER).items()}
    for name, value in plain.items():
        if name.startswith("blocks."):
            _, layer, module = name.removesuffix(".weight").split(".", 2)
            result[f"model.layers.{layer}.{table[module]}.weight"] = value
    for hf, (core, _) in layouts._OUTSIDE.items():
        result[hf] = plain[core]
    for layer in range(LAYERS):
        moe, mlp = f"blocks.{layer}.feed_forward_moe", f"model.layers.{layer}.mlp"
        result[f"{mlp}.gate.weight"] = arrays[f"{moe}.router.weight"].reshape(EXPERTS, -1)
        for ours, theirs in (("w1", "gate_proj"), ("w2", "down_proj"), ("w3", "up_proj")):
            blocks = np.split(arrays[f"{moe}.experts.mlp.{ours}"], EXPERTS)
            for expert, block in enumerate(blocks):
                result[f"{mlp}.experts.{expert}.{theirs}.weight"] = block.T.copy()
    return result


def stacked_experts(state: State) -> State:
    """Experts as transformers 5 has them in memory."""
    result = {name: value for name, value in state.items() if ".experts." not in name}
    for layer in range(LAYERS):
        experts = f"model.layers.{layer}.mlp.experts"
        result[f"{experts}.gate_up_proj"] = np.stack(
            [
                np.concatenate(
                    [state[f"{experts}.{e}.{part}_proj.weight"] for part in ("gate", "up")]
                )
                for e in range(EXPERTS)
            ]
        )
        result[f"{experts}.down_proj"] = np.stack(
            [state[f"{experts}.{e}.down_proj.weight"] for e in range(EXPERTS)]
        )
    return result


def test_experts_in_four_forms() -> None:
    native = native_mixture(24)
    one_by_one = as_hugging_face(native)
    forms: list[tuple[str, State]] = [
        ("olmo-core", {name: value.numpy() for name, value in native.items()}),
        ("hf", one_by_one),
        ("hf", stacked_experts(one_by_one)),
    ]
    dropless = dict(forms[0][1])
    for name in dropless:
        if name.endswith(("mlp.w1", "mlp.w3")):
            blocks = np.split(dropless[name], EXPERTS)
            dropless[name] = np.concatenate([block.T for block in blocks])
    forms.append(("olmo-core", dropless))
    for (layout_a, a), (layout_b, b) in itertools.permutations(forms, 2):
        if layout_a == layout_b == "olmo-core":
            continue  # the same names, and another shape
        assert_same(a, b, f"{layout_a}-to-{layout_b}")


@pytest.mark.parametrize("family", ["Olmoe", "Qwen3Moe", "Mixtral"])
def test_experts_as_transformers_stores_them(family: str, tmp_path: Path) -> None:
    changes = {"num_local_experts": EXPERTS} if family == "Mixtral" else {}
    model = hugging_face_model(family, **changes)
    model.save_pretrained(tmp_path / "saved")
    state = state_of(model)
    stored = ckptdiff.open(tmp_path / "saved")
    into = ckptdiff.diff(state, stored)
    # transformers 4 has them one by one in memory, too
    assert into.map in ("hf-to-hf", None)
    assert into.identical, into
    assert len(into) == len(stored)
    out_of = ckptdiff.diff(stored, state)
    assert out_of.identical, out_of
    assert len(out_of) == len(state)


def test_olmoe_of_the_first_code_base() -> None:
    """Megablocks' experts: w1 is gate, v1 up, and w2 down the other way round."""
    hf = experts_one_by_one(state_of(hugging_face_model("Olmoe")))
    old = layouts.olmo(
        {
            **hf,
            **{
                f"model.layers.{layer}.mlp.{part}_proj.weight": np.zeros((2, 2), np.float32)
                for layer in range(LAYERS)
                for part in ("gate", "up", "down")
            },
        },
        NORMS_BEFORE,
    )
    for layer in range(LAYERS):
        block, mlp = f"transformer.blocks.{layer}", f"model.layers.{layer}.mlp"
        del old[f"{block}.ff_proj.weight"], old[f"{block}.ff_out.weight"]
        old[f"{block}.ffn.router.layer.weight"] = hf[f"{mlp}.gate.weight"]
        experts = [f"{mlp}.experts.{e}" for e in range(EXPERTS)]
        old[f"{block}.ffn.experts.mlp.w1"] = np.concatenate(
            [hf[f"{expert}.gate_proj.weight"] for expert in experts]
        )
        old[f"{block}.ffn.experts.mlp.v1"] = np.concatenate(
            [hf[f"{expert}.up_proj.weight"] for expert in experts]
        )
        old[f"{block}.ffn.experts.mlp.w2"] = np.concatenate(
            [hf[f"{expert}.down_proj.weight"].T for expert in experts]
        )
    assert_same(old, hf, "olmo-to-hf")
    assert_same(hf, old, "hf-to-olmo")


def test_experts_whose_shape_is_another_models_keep_their_names() -> None:
    """(E, d, 2h), as gpt-oss and Llama 4 have it, is not taken for (E, 2h, d)."""
    state = state_of(hugging_face_model("Olmoe"))
    name = "model.layers.0.mlp.experts.gate_up_proj"
    if name not in state:
        pytest.skip("transformers 4 has experts one by one")
    one_by_one = experts_one_by_one(state)
    state[name] = np.ascontiguousarray(state[name].transpose(0, 2, 1))
    report = ckptdiff.diff(state, one_by_one)
    assert [tensor.name for tensor in report.only_in_a] == [name]
    assert len(report.only_in_b) == 2 * EXPERTS
    assert report.verdicts["different"] == 0


# Wrappers.


@pytest.mark.parametrize(
    ("wrapped", "name"),
    [
        ("module.layers.0.w", "layers.0.w"),
        ("_orig_mod.module.model.layers.0.w", "layers.0.w"),
        ("model._orig_mod.layers.0._checkpoint_wrapped_module.w", "layers.0.w"),
        ("_fsdp_wrapped_module.a._fsdp_wrapped_module.b", "a.b"),
        ("base_model.model.a", "a"),
        # components, and only whole ones
        ("my_orig_mod.w", "my_orig_mod.w"),
        ("submodule.w", "submodule.w"),
        ("a.module.w", "a.module.w"),
        ("model", "model"),
        ("", ""),
    ],
)
def test_a_name_without_wrappers(wrapped: str, name: str) -> None:
    assert without_wrappers(wrapped) == name


@pytest.mark.parametrize(
    "prefix", ["module.", "_orig_mod.", "_fsdp_wrapped_module.", "module._orig_mod.model."]
)
def test_wrappers_come_off_any_model(prefix: str) -> None:
    plain = {"encoder.weight": np.arange(6.0), "decoder.3.bias": np.arange(3.0)}
    wrapped = {prefix + name: value for name, value in plain.items()}
    assert_same(wrapped, plain, "wrappers")
    assert_same(plain, wrapped, "wrappers")


def test_wrappers_come_off_before_a_layout_is_looked_for(olmo2: State) -> None:
    native = layouts.olmo_core(olmo2, NORMS_AFTER)
    wrapped = {f"module._orig_mod.{name}": value for name, value in native.items()}
    assert_same(wrapped, olmo2, "olmo-core-to-hf")
    inside = {
        name.replace("layers.0.", "layers.0._fsdp_wrapped_module."): value
        for name, value in olmo2.items()
    }
    assert_same(native, inside, "olmo-core-to-hf")


def test_a_name_that_two_tensors_would_have_is_given_to_none() -> None:
    one, two = np.arange(3.0), np.arange(3.0) + 1
    report = ckptdiff.diff({"module.w": one, "model.w": two}, {"w": one})
    assert report.map is None
    assert len(report) == 0
    assert len(report.only_in_a) == 2
    report = ckptdiff.diff({"w": one}, {"module.w": one, "model.w": two})
    assert report.map is None
    assert len(report) == 0
    assert len(report.only_in_b) == 2


# What has no partner, or one of another size.


def test_what_is_not_used_of_a_fused_tensor_is_listed(olmo2: State) -> None:
    old = layouts.olmo(olmo2, NORMS_AFTER)
    partial = {
        name: value for name, value in olmo2.items() if "layers.0.self_attn.k_proj" not in name
    }
    report = ckptdiff.diff(old, partial)
    rows = KEY_VALUE_HEADS * HEAD
    (left,) = report.only_in_a
    start = WIDTH * WIDTH
    assert left.name == f"transformer.blocks.0.att_proj.weight[{start}:{start + rows * WIDTH}]"
    assert left.shape == (rows, WIDTH)
    assert not report.only_in_b
    assert report.verdicts["bit_identical"] == len(report) == len(partial)
    # and the other way round nothing can be made of q and v
    report = ckptdiff.diff(partial, old)
    assert [tensor.name for tensor in report.only_in_b] == ["transformer.blocks.0.att_proj.weight"]
    assert [tensor.name for tensor in report.only_in_a] == [
        "model.layers.0.self_attn.q_proj.weight",
        "model.layers.0.self_attn.v_proj.weight",
    ]


def test_a_larger_model_is_of_another_shape_and_not_without_partners(olmo2: State) -> None:
    larger = state_of(hugging_face_model("Olmo2", hidden_size=64, intermediate_size=96))
    for a in (layouts.olmo_core(larger, NORMS_AFTER), layouts.olmo(larger, NORMS_AFTER)):
        report = ckptdiff.diff(a, olmo2)
        assert len(report.shape_mismatch) == len(olmo2)
        assert not report.only_in_a
        assert not report.only_in_b
    back = ckptdiff.diff(olmo2, layouts.olmo(larger, NORMS_AFTER))
    assert not back.only_in_b
    assert {len(mismatch.a.shape) for mismatch in back.shape_mismatch} == {1, 2}


def test_parts_of_two_dtypes_make_no_tensor(olmo2: State) -> None:
    mixed: dict[str, Any] = dict(olmo2)
    name = "model.layers.0.self_attn.k_proj.weight"
    mixed[name] = mixed[name].astype(np.float16)
    report = ckptdiff.diff(mixed, layouts.olmo(olmo2, NORMS_AFTER))
    assert [tensor.name for tensor in report.only_in_b] == ["transformer.blocks.0.att_proj.weight"]
    assert len(report.only_in_a) == 3


def test_names_that_agree_need_no_map(olmo2: State) -> None:
    report = ckptdiff.diff(olmo2, dict(olmo2))
    assert report.map is None
    assert report.remarks == ()
    # a tensor more on one side is nothing to look for a map for
    report = ckptdiff.diff({**olmo2, "extra": np.zeros(3)}, olmo2)
    assert report.map is None
    assert [tensor.name for tensor in report.only_in_a] == ["extra"]


def test_what_agrees_is_left_alone(olmo2: State) -> None:
    """A tensor whose name both sides have is held against that one, whatever a map would do."""
    native = layouts.olmo_core(olmo2, NORMS_AFTER)
    both: State = {**native, "model.norm.weight": olmo2["model.norm.weight"] + 1}
    report = ckptdiff.diff(both, olmo2)
    assert report["model.norm.weight"].changed == WIDTH
    assert [tensor.name for tensor in report.only_in_a] == ["lm_head.norm.weight"]


def test_a_map_makes_a_checkpoint_that_everything_takes(olmo2: State, tmp_path: Path) -> None:
    old = layouts.olmo(olmo2, NORMS_AFTER)
    safetensors.numpy.save_file(old, tmp_path / "old.safetensors")
    checkpoint = ckptdiff.open(tmp_path / "old.safetensors")
    found = find_map(checkpoint, ckptdiff.open(olmo2))
    assert found is not None
    assert (found.name, found.found) == ("olmo-to-hf", len(olmo2))
    derived = mapped(checkpoint, found)
    assert derived.names() == ckptdiff.open(olmo2).names()
    assert derived.bytes == checkpoint.bytes
    assert derived.path == checkpoint.path
    q = "model.layers.1.self_attn.q_proj.weight"
    assert derived.stored_name(q) == "transformer.blocks.1.att_proj.weight"
    (span,) = derived[q].spans
    (whole,) = checkpoint[derived.stored_name(q)].spans
    assert (span.offset, span.length) == (whole.offset, WIDTH * WIDTH * 4)
    ours, theirs = ckptdiff.stats(derived), ckptdiff.stats(olmo2)
    assert ours.to_csv() == theirs.to_csv()


def test_a_sharded_native_checkpoint_of_several_processes(olmo2: State, tmp_path: Path) -> None:
    """Distributed checkpoints, as OLMo-core writes them, keep ``model.`` in front of names."""
    import torch.distributed.checkpoint as dcp

    native = layouts.olmo_core(olmo2, NORMS_AFTER)
    state = {"model": {name: torch.from_numpy(value) for name, value in native.items()}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcp.save(state, checkpoint_id=tmp_path / "native", no_dist=True)
    assert_same(tmp_path / "native", olmo2, "olmo-core-to-hf")
