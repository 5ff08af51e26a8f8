"""Configs of every trainer as one set of fields, and diffs that heed them."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ckptdiff
import numpy as np
import pytest
from ckptdiff.config import (
    ARCHITECTURE,
    TRAINING,
    ModelConfig,
    config_differences,
    read_config,
)
from ckptdiff.documents import CONFIG_BYTES_AT_MOST, read_yaml
from ckptdiff.position import position_of
from ckptdiff.testing import assert_checkpoints_equal
from safetensors.numpy import save_file

from tests.cli import invoke
from tests.configs import (
    OLMO_CORE,
    OLMO_CORE_FIRST_VERSION,
    OLMO_STAGE_2_YAML,
    OLMO_YAML,
    olmo_core,
)
from tests.writers import Tensor, tensor, write_file

# The architecture of OLMo 2 7B, whoever says it.
OLMO_2_7B: dict[str, Any] = {
    "d_model": 4096,
    "n_layers": 32,
    "n_heads": 32,
    "n_kv_heads": 32,
    "head_dim": 128,
    "mlp_hidden_size": 11008,
    "vocab_size": 100352,
    "rope_theta": 500000.0,
    "rope_scaling": "none",
    "tie_word_embeddings": False,
    "norm_eps": 1e-6,
}


def written(folder: Path, text: str, name: str = "config.json") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text, encoding="utf-8")
    return folder


def config_in(folder: Path | str) -> ModelConfig:
    config = read_config(str(folder))
    assert config is not None
    return config


def known(config: ModelConfig) -> dict[str, Any]:
    names = (*ARCHITECTURE, *TRAINING)
    found = {name: getattr(config, name) for name in names}
    return {name: value for name, value in found.items() if value is not None}


# Each writer's config, field by field.


def test_olmo_core(tmp_path: Path) -> None:
    config = config_in(written(tmp_path, OLMO_CORE))
    assert known(config) == OLMO_2_7B | {
        "learning_rate": 3e-4,
        "schedule": "cosine (alpha_f=0.1)",
        "warmup": 2000,
        "duration": "5000000000000 tokens",
        "batch_size_tokens": 4194304,
        "sequence_length": 4096,
        "weight_decay": 0.1,
        "seed": 12536,
        "data_seed": 34521,
        "data_mix": "OLMo-mix-1124",
    }
    assert config.sources["n_heads"] == "config.json model.block.sequence_mixer.n_heads"
    assert config.sources["learning_rate"] == "config.json train_module.optim.lr"
    # the trainer rounds up to whole steps
    assert config.length == int(np.ceil(5e12 / 4194304))


def test_olmo_core_before_it_had_train_modules(tmp_path: Path) -> None:
    config = config_in(written(tmp_path, OLMO_CORE_FIRST_VERSION))
    assert known(config) == {
        "d_model": 5120,
        "n_layers": 64,
        "n_heads": 40,
        "n_kv_heads": 8,
        "head_dim": 128,
        "mlp_hidden_size": 27648,
        "vocab_size": 100352,
        "rope_theta": 500000.0,
        "rope_scaling": "none",
        "norm_eps": 1e-6,
        "learning_rate": 6e-4,
        "schedule": "cosine (alpha_f=0.1, t_max=774861)",
        "warmup": 2000,
        "duration": "6500000000000 tokens",
        "batch_size_tokens": 8388608,
        "sequence_length": 4096,
        "weight_decay": 0.1,
        "data_seed": 34521,
        "data_mix": config.data_mix,
    }
    assert config.data_mix is not None
    assert config.data_mix.startswith("2 entries, sha256 ")


def test_first_generation(tmp_path: Path) -> None:
    config = config_in(written(tmp_path, OLMO_YAML, "config.yaml"))
    # its MLP counts both halves of a gated activation, its vocabulary leaves the padding out
    assert known(config) == OLMO_2_7B | {
        "max_sequence_length": 4096,
        "learning_rate": 3e-4,
        "schedule": "cosine (alpha_f=0.1, t_max=5000000000000, in tokens)",
        "warmup": 8388608000,
        "duration": "1 epochs",
        "batch_size_tokens": 1024 * 4096,
        "sequence_length": 4096,
        "weight_decay": 0.1,
        "seed": 6198,
        "data_seed": 6198,
        "data_mix": config.data_mix,
    }
    assert config.sources["batch_size_tokens"] == (
        "config.yaml global_train_batch_size x model.max_sequence_length"
    )


def test_a_ratio_for_the_size_of_the_mlp(tmp_path: Path) -> None:
    text = OLMO_YAML.replace("mlp_hidden_size: 22016", "mlp_ratio: 8")
    assert config_in(written(tmp_path, text, "config.yaml")).mlp_hidden_size == 8 * 4096 // 2
    text = text.replace("activation_type: swiglu", "activation_type: gelu")
    assert config_in(written(tmp_path, text, "config.yaml")).mlp_hidden_size == 8 * 4096


def transformers_configs() -> dict[str, tuple[str, dict[str, Any], dict[str, Any]]]:
    sizes = {
        "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
        "intermediate_size": 11008, "vocab_size": 100352, "rms_norm_eps": 1e-6,
    }  # fmt: skip
    rope = {"rope_parameters": {"rope_type": "default", "rope_theta": 500000.0}}
    yarn = {
        "rope_type": "yarn", "factor": 8.0, "rope_theta": 5e5,
        "original_max_position_embeddings": 8192,
    }  # fmt: skip
    return {
        "Olmo2": ("Olmo2Config", sizes | rope, OLMO_2_7B),
        "Olmo3, long": (
            "Olmo3Config",
            sizes | {"rope_parameters": {"full_attention": yarn, "sliding_attention": yarn}},
            OLMO_2_7B | {"rope_scaling": "yarn 8"},
        ),
        "Llama, grouped": (
            "LlamaConfig",
            sizes | rope | {"num_key_value_heads": 8, "tie_word_embeddings": True},
            OLMO_2_7B | {"n_kv_heads": 8, "tie_word_embeddings": True},
        ),
        "Qwen3 MoE": (
            "Qwen3MoeConfig",
            sizes | rope | {"num_experts": 64, "num_experts_per_tok": 4, "head_dim": 64,
                            "moe_intermediate_size": 768, "num_key_value_heads": 4},
            OLMO_2_7B | {"n_experts": 64, "n_experts_per_token": 4, "head_dim": 64,
                         "mlp_hidden_size": 768, "n_kv_heads": 4},
        ),
        "GPT-2": (
            "GPT2Config",
            {"n_embd": 768, "n_layer": 12, "n_head": 12, "n_inner": 3072, "n_positions": 1024},
            {"d_model": 768, "n_layers": 12, "n_heads": 12, "n_kv_heads": 12, "head_dim": 64,
             "mlp_hidden_size": 3072, "vocab_size": 50257, "norm_eps": 1e-5},
        ),
    }  # fmt: skip


@pytest.mark.parametrize("name", transformers_configs())
def test_hugging_face(name: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    kind, arguments, expected = transformers_configs()[name]
    getattr(transformers, kind)(**arguments).save_pretrained(tmp_path)
    config = config_in(tmp_path)
    found = known(config)
    if name != "GPT-2":
        assert found.pop("max_sequence_length") > 0
        assert config.sources["d_model"] == "config.json hidden_size"
    assert {key: found[key] for key in expected} == expected


def test_a_config_of_hugging_face_before_version_5(tmp_path: Path) -> None:
    text = """{"model_type": "llama", "hidden_size": 2048, "num_hidden_layers": 16,
      "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 64, "rope_theta": 500000.0,
      "rope_scaling": {"factor": 32.0, "rope_type": "llama3"}, "intermediate_size": 8192}"""
    config = config_in(written(tmp_path / "scaled", text))
    assert (config.rope_theta, config.rope_scaling) == (500000.0, "llama3 32")
    plain = text.replace('{"factor": 32.0, "rope_type": "llama3"}', "null")
    assert config_in(written(tmp_path / "plain", plain)).rope_scaling == "none"


def test_text_models_of_models_with_images(tmp_path: Path) -> None:
    text = '{"text_config": {"hidden_size": 512, "num_attention_heads": 8}, "vision_config": {}}'
    config = config_in(written(tmp_path, text))
    assert (config.d_model, config.head_dim) == (512, 64)
    assert config.sources["d_model"] == "config.json text_config.hidden_size"


def test_sizes_per_layer_are_one_size_where_they_are_equal(tmp_path: Path) -> None:
    text = '{"hidden_size": 512, "intermediate_size": [64, 64], "num_attention_heads": [4, 8]}'
    config = config_in(written(tmp_path, text))
    assert (config.mlp_hidden_size, config.n_heads) == (64, None)


@pytest.mark.parametrize("size", ["olmo2_7B", "olmo2_13B", "olmo3_7B", "olmoe_1B_7B", "qwen3_0_6B"])
def test_models_of_olmo_core_itself(size: str, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = pytest.importorskip("olmo_core.nn.transformer")
    theirs = getattr(module.TransformerConfig, size)(vocab_size=100352)
    config = config_in(written(tmp_path, json.dumps({"model": theirs.as_config_dict()})))
    mixer, experts = theirs.block.sequence_mixer, theirs.block.feed_forward_moe
    assert known(config) == {
        "d_model": theirs.d_model,
        "n_layers": theirs.n_layers,
        "n_heads": mixer.n_heads,
        "n_kv_heads": mixer.n_kv_heads or mixer.n_heads,
        "head_dim": mixer.head_dim or theirs.d_model // mixer.n_heads,
        "mlp_hidden_size": (experts or theirs.block.feed_forward).hidden_size,
        **({"n_experts": 64, "n_experts_per_token": 8} if experts else {}),
        "vocab_size": 100352,
        "rope_theta": mixer.rope.theta,
        "rope_scaling": "none",
        "tie_word_embeddings": theirs.tie_word_embeddings,
        "norm_eps": theirs.block.layer_norm.eps,
    }


def test_data_without_a_name_is_told_apart_by_what_it_lists(tmp_path: Path) -> None:
    def data_mix(name: str, **dataset: object) -> str | None:
        return config_in(written(tmp_path / name, olmo_core(dataset=dataset))).data_mix

    mixes = [
        data_mix("a", paths=["a.npy", "b.npy"]),
        data_mix("b", paths=["a.npy", "c.npy"]),
        data_mix("c", source_mixture_config={"seed": 1}, work_dir="/one"),
        data_mix("d", source_mixture_config={"seed": 1}, work_dir="/two"),
        data_mix("e", source_mixture_config={"seed": 2}, work_dir="/two"),
    ]
    assert None not in mixes
    assert len(set(mixes)) == 4
    assert mixes[2] == mixes[3]


# Where it is looked for.


def test_a_config_is_found_beside_the_tensors_and_above_their_folder(tmp_path: Path) -> None:
    step = written(tmp_path / "step100", OLMO_CORE)
    (step / "model_and_optim").mkdir()
    (step / "model.safetensors").touch()
    (step / "model_and_optim" / ".metadata").touch()
    inside = (".", "model.safetensors", "model_and_optim", "model_and_optim/.metadata")
    assert [config_in(step / part).d_model for part in inside] == [4096] * 4
    assert read_config(str(tmp_path)) is None
    assert read_config(str(tmp_path / "nowhere" / "model.pt")) is None


def test_two_configs_complete_each_other(tmp_path: Path) -> None:
    written(tmp_path, '{"hidden_size": 64, "model_type": "olmo2"}')
    config = config_in(written(tmp_path, OLMO_YAML, "config.yaml"))
    assert (config.d_model, config.seed) == (64, 6198)
    assert config.sources["d_model"] == "config.json hidden_size"
    assert config.sources["seed"] == "config.yaml seed"


@pytest.mark.parametrize("text", ["{}", '{"name": "a program"}', '{"hidden_size": null}'])
def test_a_config_of_something_else_is_none(text: str, tmp_path: Path) -> None:
    assert read_config(str(written(tmp_path, text))) is None


def test_values_that_a_field_cannot_hold_leave_it_unknown(tmp_path: Path) -> None:
    odd = [True, -4096, 0, 1.5, "4096", [], {}, [1, 2], 10**30, None]
    for value in odd:
        text = json.dumps({"hidden_size": value, "num_hidden_layers": 2})
        assert known(config_in(written(tmp_path, text))) == {"n_layers": 2}, value


ODD: tuple[Any, ...] = (
    None, True, -1, 1e300, float("nan"), "many", [[]], {"a": {}}, 10**40,
)  # fmt: skip


def nodes(value: object, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The place of every value in a document."""
    yield path
    if isinstance(value, dict):
        for key, part in value.items():
            yield from nodes(part, (*path, key))


@pytest.mark.parametrize("kind", ["olmo_core", "first version", "first generation", "stages"])
def test_an_odd_value_anywhere_is_never_more_than_a_line(kind: str, tmp_path: Path) -> None:
    stages = {
        "type": "composable",
        "stages": [{"duration": 5, "end_lr": 1e-4}],
        "override_decay": {"start": 3, "duration": 5, "end_lr": 0.0},
    }
    documents: dict[str, Any] = {
        "olmo_core": json.loads(OLMO_CORE),
        "first version": json.loads(OLMO_CORE_FIRST_VERSION),
        "first generation": read_yaml_text(tmp_path, OLMO_YAML),
        "stages": json.loads(olmo_core(train_module__scheduler=stages)),
    }
    # JSON is YAML
    name = "config.yaml" if kind == "first generation" else "config.json"
    document = documents[kind]
    understood = 0
    for path in nodes(document):
        for odd in ODD:
            changed = json.loads(json.dumps(document))
            holder = {"": changed}
            place: Any = holder
            for key in ("", *path)[:-1]:
                place = place[key]
            place[("", *path)[-1]] = odd
            written(tmp_path / "step5", json.dumps(holder[""]), name)
            position = position_of(str(tmp_path / "step5"))
            rate = position.learning_rate
            assert rate is None or 0 <= rate < float("inf")
            assert len(position.problems) == (not isinstance(holder[""], dict))
            understood += rate is not None
    assert understood > len(ODD)


def read_yaml_text(folder: Path, text: str) -> dict[str, Any]:
    return read_yaml(str(written(folder, text, "text.yaml") / "text.yaml"))


# Configs that mean harm: a line, in bounded time and memory.


def nested(pieces: int) -> str:
    return '{"model": ' + "[" * pieces + "]" * pieces + "}"


HOSTILE: dict[str, tuple[str, str, str]] = {
    "nested JSON of a megabyte": ("config.json", nested(500_000), "nested too deep"),
    "a list": ("config.json", "[1]", "expected a mapping"),
    "no JSON": ("config.json", '{"hidden_size": ', "no JSON"),
    "an integer of many digits": ("config.json", '{"a": ' + "9" * 100_000 + "}", "no JSON"),
    "an empty file": ("config.json", "", "no JSON"),
    "a large file": ("config.json", " " * (CONFIG_BYTES_AT_MOST + 1), "at most"),
    "data nested as deep as JSON can be read": (
        "config.json",
        '{"model": {"d_model": 4}, "dataset": ' + "[" * 900 + "]" * 900 + "}",
        "nested too deep",
    ),
    "nested YAML": ("config.yaml", "[" * 50_000, "nested too deep"),
    "YAML with aliases": (
        "config.yaml",
        "a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n",
        "with an alias",
    ),
    "YAML that constructs": ("config.yaml", "a: !!python/object/apply:os.system [x]", "a tag"),
    "YAML with a mapping for a key": ("config.yaml", "? {a: 1}\n: 2\n", "no text"),
    "no YAML": ("config.yaml", "a: [1, 2\nb: }", "no YAML"),
    "YAML that is a list": ("config.yaml", "- 1\n", "expected a mapping"),
    "an empty YAML": ("config.yaml", "", "expected a mapping"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_config_is_one_line(name: str, tmp_path: Path) -> None:
    file, text, says = HOSTILE[name]
    written(tmp_path, text, file)
    start = time.process_time()
    with pytest.raises(ckptdiff.InvalidCheckpointError, match=says) as caught:
        read_config(str(tmp_path))
    assert time.process_time() - start < 2
    message = str(caught.value)
    assert message.startswith(str(tmp_path / file))
    assert "\n" not in message
    assert len(message) < 500 + len(str(tmp_path))


def test_text_that_is_no_utf_8(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(b'{"a": "\xff"}')
    with pytest.raises(ckptdiff.InvalidCheckpointError, match="UTF-8"):
        read_config(str(tmp_path))


def test_yaml_is_read_as_its_writer_reads_it(tmp_path: Path) -> None:
    text = (
        "a: 5e12\nb: 1e-6\nc: '1'\nd: true\ne: null\nf: ~\ng:\nh: -7\ni: .5\nj: 1_000\n"
        "k: ${a}\nl: [1, {m: 2}]\nn: 0x10\no: 1.2.3\np: |\n  text\n1: one\n"
    )
    file = tmp_path / "a.yaml"
    file.write_text(text, encoding="utf-8")
    assert read_yaml(str(file)) == {
        "a": 5e12, "b": 1e-6, "c": "1", "d": True, "e": None, "f": None, "g": None, "h": -7,
        "i": 0.5, "j": 1000, "k": "${a}", "l": [1, {"m": 2}], "n": "0x10", "o": "1.2.3",
        "p": "text\n", "1": "one",
    }  # fmt: skip


def test_yaml_is_imported_only_where_there_is_some(tmp_path: Path) -> None:
    import subprocess

    written(tmp_path, OLMO_CORE)
    program = (
        "import sys; from ckptdiff.config import read_config; "
        f"assert read_config({str(tmp_path)!r}).d_model; sys.exit('yaml' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


# What differs, and what is refused.


def test_differences_are_those_of_fields_that_both_have(tmp_path: Path) -> None:
    stage_1 = config_in(written(tmp_path / "1", OLMO_YAML, "config.yaml"))
    stage_2 = config_in(written(tmp_path / "2", OLMO_STAGE_2_YAML, "config.yaml"))
    differences = config_differences(stage_1, stage_2)
    assert [difference.field for difference in differences] == [
        "learning_rate", "schedule", "warmup", "duration", "seed", "data_seed", "data_mix",
    ]  # fmt: skip
    assert differences[0] == ("learning_rate", 3e-4, 6.1499e-05)
    assert config_differences(stage_1, stage_1) == []
    # the same model of another trainer has no schedule in tokens, but the same architecture
    other = config_in(written(tmp_path / "3", OLMO_CORE))
    assert not {part.field for part in config_differences(stage_1, other)} & set(ARCHITECTURE)


def pair(folder: Path, text_a: str, text_b: str, values_b: float = 2.0) -> tuple[Path, Path]:
    """Two checkpoints of one tensor, with these configs."""
    one: dict[str, Tensor] = {"model.norm.weight": tensor([1.0, 2.0], "F32")}
    two: dict[str, Tensor] = {"model.norm.weight": tensor([1.0, values_b], "F32")}
    for name, text, tensors in (("a", text_a, one), ("b", text_b, two)):
        written(folder / name, text)
        write_file(folder / name / "model.safetensors", tensors)
    return folder / "a", folder / "b"


# Each field that makes two models different ones, as Hugging Face calls it.
REFUSED = {
    "d_model": "hidden_size",
    "n_layers": "num_hidden_layers",
    "n_heads": "num_attention_heads",
    "n_kv_heads": "num_key_value_heads",
    "head_dim": "head_dim",
    "mlp_hidden_size": "intermediate_size",
    "n_experts": "num_experts",
}


@pytest.mark.parametrize("field", REFUSED)
def test_another_architecture_is_refused(field: str, tmp_path: Path) -> None:
    keys = REFUSED
    config: dict[str, Any] = dict.fromkeys(keys.values(), 64)
    a, b = pair(tmp_path, json.dumps(config), json.dumps(config | {keys[field]: 128}))
    with pytest.raises(ckptdiff.ArchitectureMismatchError) as caught:
        ckptdiff.diff(a, b)
    assert isinstance(caught.value, ValueError)
    assert [part.field for part in caught.value.differences] == [field]
    assert f"{field} 64 and 128" in str(caught.value)
    report = ckptdiff.diff(a, b, force=True)
    assert report.matches
    assert report.config_differences == caught.value.differences


NOT_REFUSED: dict[str, dict[str, Any]] = {
    "padding of the vocabulary": {"model__vocab_size": 100278},
    "a longer context": {"model__block__sequence_mixer__rope__theta": 8000000},
    "a tied embedding": {"model__tie_word_embeddings": True},
    "another seed": {"data_loader__seed": 1},
    "another rate": {"train_module__optim__lr": 1e-5},
}


@pytest.mark.parametrize("name", NOT_REFUSED)
def test_what_leaves_the_layers_comparable_is_shown_only(name: str, tmp_path: Path) -> None:
    a, b = pair(tmp_path, olmo_core(), olmo_core(**NOT_REFUSED[name]))
    assert len(ckptdiff.diff(a, b).config_differences) == 1


def test_an_assertion_is_about_the_tensors(tmp_path: Path) -> None:
    a, b = pair(tmp_path, olmo_core(), olmo_core(model__d_model=5120))
    assert_checkpoints_equal(a, b)
    write_file(b / "model.safetensors", {"model.norm.weight": tensor([1.0], "F32")})
    with pytest.raises(AssertionError, match="of another shape"):
        assert_checkpoints_equal(a, b)


def test_without_two_configs_nothing_is_refused(tmp_path: Path) -> None:
    a, b = pair(tmp_path, olmo_core(), olmo_core(model__d_model=5120))
    (b / "config.json").unlink()
    assert ckptdiff.diff(a, b).config_differences == ()
    in_memory = {"model.norm.weight": np.ones(2, np.float32)}
    assert ckptdiff.diff(a, in_memory).config_differences == ()


def test_a_config_that_cannot_be_read_is_a_note(tmp_path: Path) -> None:
    a, b = pair(tmp_path, olmo_core(), "{")
    report = ckptdiff.diff(a, b)
    assert report.matches
    assert len(report.notes) == 1
    assert f"{b / 'config.json'}: no JSON" in report.notes[0]


def test_the_command_shows_the_fields_and_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    larger = olmo_core(
        model__d_model=5120,
        model__n_layers=40,
        model__block__feed_forward__hidden_size=13824,
        model__block__sequence_mixer__n_heads=40,
        train_module__optim__lr=9e-5,
    )
    pair(tmp_path, olmo_core(), larger)
    monkeypatch.chdir(tmp_path)
    refused = invoke("diff", "a", "b")
    assert refused.status == 2
    assert refused.stdout == ""
    assert refused.stderr == (
        "field                 A       B\n"
        "d_model           4,096   5,120\n"
        "n_layers             32      40\n"
        "n_heads              32      40\n"
        "n_kv_heads           32      40\n"
        "mlp_hidden_size  11,008  13,824\n"
        "ckptdiff: error: a and b are models of different architectures, by their configs; "
        "--force compares what has one name and one shape\n"
    )
    forced = invoke("diff", "a", "b", "--force")
    assert forced.status == 0
    assert "configs differ (6)\n  d_model  4,096 → 5,120\n" in forced.stdout
    assert "  learning_rate  0.0003 → 9e-05\n" in forced.stdout
    markdown = invoke("diff", "a", "b", "--force", "--format", "markdown").stdout
    assert "Configs differ (6):\n\n- `d_model` 4,096 → 5,120\n" in markdown
    html = ckptdiff.diff("a", "b", force=True)._repr_html_()
    assert "configs differ: d_model  4,096 → 5,120; " in html


def test_the_json_has_the_fields_that_differ(tmp_path: Path) -> None:
    a, b = pair(tmp_path, olmo_core(), olmo_core(data_loader__seed=7), values_b=3.0)
    document = json.loads(ckptdiff.diff(a, b).to_json())
    assert document["config"] == [{"field": "data_seed", "a": 34521, "b": 7}]
    assert document["options"]["force"] is False
    same = json.loads(ckptdiff.diff(a / "model.safetensors", b, force=True).to_json())
    assert same["config"] == document["config"]
    assert same["options"]["force"] is True
    # a config that both have, or that nobody has, leaves no trace: the tensors decide
    (b / "config.json").write_text(olmo_core(), encoding="utf-8")
    with_config = ckptdiff.diff(a, b).to_json()
    for side in (a, b):
        (side / "config.json").unlink()
    assert ckptdiff.diff(a, b).to_json() == with_config
    assert json.loads(with_config)["config"] == []


@pytest.mark.parametrize(
    ("files", "is_read"),
    [
        ((), False),
        (("a/config.json",), True),
        (("b/config.yaml",), True),
        (("config.json",), False),
    ],
)
def test_a_diff_without_configs_does_not_import_what_reads_them(
    files: tuple[str, ...], is_read: bool, tmp_path: Path
) -> None:
    for side in "ab":
        (tmp_path / side).mkdir()
        save_file({"w": np.ones(3, np.float32)}, tmp_path / side / "model.safetensors")
    for file in files:
        (tmp_path / file).write_text("{}")
    code = (
        "import sys, ckptdiff; assert ckptdiff.diff(*sys.argv[1:]).identical; "
        "sys.exit('ckptdiff.config' in sys.modules)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "a"), str(tmp_path / "b")]
    assert subprocess.run(command, check=False).returncode == is_read
