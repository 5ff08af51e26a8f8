"""Maps of the user's own, proposals, tied weights, and what the command line says of them."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

import ckptdiff
import numpy as np
import pytest
import safetensors.numpy
from ckptdiff.naming.map_file import read_map
from ckptdiff.testing import assert_checkpoints_equal
from numpy.typing import NDArray

from tests.cli import assert_one_line_of_trouble, invoke
from tests.writers import Tensor, write_file, write_sparse

DOCUMENT = Path(__file__).parent.parent / "docs" / "names.md"

Arrays = dict[str, NDArray[Any]]


def random(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng([seed, *shape]).normal(size=shape).astype(np.float32)


def write_map(folder: Path, text: str) -> Path:
    path = folder / "map.toml"
    path.write_text(text, encoding="utf-8")
    return path


def mapped(tensors: Arrays, folder: Path, text: str) -> ckptdiff.Checkpoint:
    return read_map(str(write_map(folder, text))).applied_to(ckptdiff.open(tensors))


def assert_holds(checkpoint: ckptdiff.Checkpoint, expected: Arrays) -> None:
    """The checkpoint has exactly these tensors, bit for bit."""
    report = ckptdiff.diff(checkpoint, expected, map="none")
    assert checkpoint.names() == ckptdiff.open(expected).names()
    assert report.identical, report


# Rules.


def test_the_example_of_the_documentation(tmp_path: Path) -> None:
    (text,) = re.findall(r"```toml\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
    old: Arrays = {"wte": random(10, 8)}
    new: Arrays = {"model.embed_tokens.weight": old["wte"]}
    for layer in range(2):
        qkv, gate, up = random(16, 8, seed=layer), random(6, 8, seed=layer), random(6, 8, seed=9)
        down = random(6, 8, seed=layer + 5)
        old |= {
            f"h.{layer}.attn.qkv": qkv,
            f"h.{layer}.mlp.gate": gate,
            f"h.{layer}.mlp.up": up,
            f"h.{layer}.mlp.down": down,
        }
        there = f"model.layers.{layer}"
        new |= {
            f"{there}.self_attn.q_proj.weight": qkv[:8],
            f"{there}.self_attn.k_proj.weight": qkv[8:12],
            f"{there}.self_attn.v_proj.weight": qkv[12:],
            f"{there}.mlp.gate_up_proj.weight": np.concatenate([gate, up]),
            f"{there}.mlp.down_proj.weight": down.T,
        }
    path = write_map(tmp_path, text)
    report = ckptdiff.diff(old, new, map=path)
    assert report.identical
    assert len(report) == len(new)
    assert report.map == str(path)
    assert report.remarks == (f"A is mapped by {path} ({len(new)} tensors)",)
    assert report.notes == ()
    assert report.a.stored_name("model.layers.1.self_attn.k_proj.weight") == "h.1.attn.qkv"


def test_rules_build_on_each_other(tmp_path: Path) -> None:
    """What was transposed is split, what was put together is transposed."""
    matrix, other = random(4, 6), random(4, 6, seed=1)
    text = """
[[rule]]
transpose = 'm'
[[rule]]
split = 'm'
to = ['top', 'bottom']
[[rule]]
concatenate = 'top'
with = ['bottom', 'top']
to = 'three'
[[rule]]
transpose = 'three'
to = 'turned'
[[rule]]
rename = '^o'
to = 'n'
"""
    turned = matrix.T
    expected = {"turned": np.concatenate([turned[:3], turned[3:], turned[:3]]).T, "nther": other}
    assert_holds(mapped({"m": matrix, "other": other}, tmp_path, text), expected)


def test_axes_of_more_dimensions(tmp_path: Path) -> None:
    cube = random(2, 3, 4)
    text = "[[rule]]\ntranspose = 'c'\naxes = [1, 2, 0]\nto = 'd'\n"
    assert_holds(mapped({"c": cube}, tmp_path, text), {"d": cube.transpose(1, 2, 0)})


def test_names_come_first_and_only_whole(tmp_path: Path) -> None:
    text = "[names]\na = 'b'\n'b' = 'a'\n[[rule]]\nrename = 'b'\nto = 'c'\n"
    tensors = {"a": random(2), "b": random(3), "ab": random(4)}
    expected = {"c": tensors["a"], "a": tensors["b"], "ac": tensors["ab"]}
    assert_holds(mapped(tensors, tmp_path, text), expected)


BROKEN = [
    ("", "expected [names] or at least one [[rule]]"),
    ("x = 1", "unknown key 'x'"),
    ("rules = []", "did you mean 'rule'?"),
    ("schema = 'ckptdiff.map/2'", "expected schema 'ckptdiff.map/1', not 'ckptdiff.map/2'"),
    ("[[rule]", "it is no TOML"),
    ("\x00", "it is no TOML"),
    ("rule = 1", "expected tables, each headed [[rule]]"),
    ("rule = [1]", "expected tables, each headed [[rule]]"),
    ("[names]\na = 1", '"old name" = "new name"'),
    ("names = 1", '"old name" = "new name"'),
    ("[[rule]]\nto = 'x'", "rule 1: expected one of rename, split, concatenate, transpose"),
    ("[[rule]]\nrename = 'a'\nsplit = 'b'", "not rename and split"),
    ("[[rule]]\nrename = 'a'", "rule 1 (rename): 'to': expected a name, not None"),
    ("[[rule]]\nrename = 1\nto = 'x'", "expected a regular expression, not 1"),
    ("[[rule]]\nrename = '('\nto = 'x'", "is no regular expression"),
    ("[[rule]]\nrename = 'a'\nto = '\\1'", "bad replacement"),
    ("[[rule]]\nrename = ''\nto = 'x'", "empty regular expression"),
    ("[[rule]]\nrename = 'a'\nto = 'b'\nsizes = [1]", "rule 1 (rename): unknown key 'sizes'"),
    ("[[rule]]\nsplit = 'a'\nto = 'x'", "'to': expected a list of names, not 'x'"),
    ("[[rule]]\nsplit = 'a'\nto = []", "'to': expected a list of names, not []"),
    ("[[rule]]\nsplit = 'a'\nto = ['x', 1]", "expected a name, not 1"),
    ("[[rule]]\nsplit = 'a'\nto = ['x', 'y']\nsizes = [1]", "expected 2 sizes above 0, not [1]"),
    ("[[rule]]\nsplit = 'a'\nto = ['x']\nsizes = [0]", "expected 1 sizes above 0, not [0]"),
    ("[[rule]]\nsplit = 'a'\nto = ['x']\nsizes = [-1]", "expected a list of whole numbers"),
    ("[[rule]]\nsplit = 'a'\nto = ['x']\nsizes = [true]", "expected a list of whole numbers"),
    ("[[rule]]\nconcatenate = 'a'\nto = 'x'", "'with': expected a list of names, not None"),
    ("[[rule]]\nconcatenate = '('\nwith = ['b']\nto = 'x'", "is no regular expression"),
    ("[[rule]]\ntranspose = 'a'\naxes = 'x'", "'axes': expected a list of whole numbers"),
    ("[[rule]]\ntranspose = '['", "is no regular expression"),
]


@pytest.mark.parametrize(("text", "problem"), BROKEN, ids=[text for text, _ in BROKEN])
def test_a_file_that_is_no_map(text: str, problem: str, tmp_path: Path) -> None:
    path = write_map(tmp_path, text)
    safetensors.numpy.save_file({"a": random(4, 2)}, tmp_path / "a.safetensors")
    file = tmp_path / "a.safetensors"
    assert_one_line_of_trouble(invoke("diff", file, file, "--map", path), str(path), problem)


MISFITS = [
    ("split = 'a'\nto = ['x', 'y']\nsizes = [1, 2]", "'a' has 4 rows, and the sizes add up to 3"),
    ("split = 'a'\nto = ['x', 'y', 'z']", "'a' has 4 rows, not 3 equal parts"),
    ("split = 's'\nto = ['x', 'y']", "'s' is a scalar, which cannot be split"),
    ("split = 'a'\nto = ['x', 'x']", 'there are two tensors "x"'),
    ("split = 'a'\nto = ['x', 'b']", 'there are two tensors "b"'),
    ("rename = '[ab]'\nto = 'c'", 'there are two tensors "c"'),
    ("concatenate = 'a'\nwith = ['nothing']\nto = 'x'", "'a' has no 'nothing' to go with it"),
    ("concatenate = 'a'\nwith = ['b']\nto = 'x'", "'a' has shape [4, 2], and 'b' has [3]"),
    ("concatenate = 'a'\nwith = ['h']\nto = 'x'", '"h" is F16, and the part before it is F32'),
    ("concatenate = 's'\nwith = ['s']\nto = 'x'", "'s' is a scalar"),
    ("transpose = 'a'\naxes = [0]", "'a' has 2 dimensions, and the axes are [0]"),
    ("transpose = 'a'\naxes = [1, 1]", "the axes are [1, 1]"),
]


@pytest.mark.parametrize(("rule", "problem"), MISFITS, ids=[rule for rule, _ in MISFITS])
def test_a_rule_that_does_not_fit(rule: str, problem: str, tmp_path: Path) -> None:
    path = write_map(tmp_path, f"[[rule]]\n{rule}\n")
    file = tmp_path / "tensors.safetensors"
    tensors: Arrays = {
        "a": random(4, 2),
        "b": random(3),
        "h": random(4, 2).astype(np.float16),
        "s": np.array(1, np.float32),
    }
    safetensors.numpy.save_file(tensors, file)
    kind = rule.partition(" ")[0]
    outcome = invoke("diff", file, file, "--map", path)
    assert_one_line_of_trouble(outcome, f"{path}: rule 1 ({kind})", problem)


def test_packed_elements_are_cut_only_between_bytes(tmp_path: Path) -> None:
    packed = {"a": Tensor("F4", (4, 3), bytes(range(6)))}
    tensors = ckptdiff.open(write_file(tmp_path / "packed.safetensors", packed))
    path = write_map(tmp_path, "[[rule]]\nsplit = 'a'\nto = ['x', 'y']\nsizes = [1, 3]\n")
    with pytest.raises(ValueError, match="of packed F4 cannot be cut at element 3"):
        read_map(str(path)).applied_to(tensors)
    path = write_map(tmp_path, "[[rule]]\nsplit = 'a'\nto = ['x', 'y']\nsizes = [2, 2]\n")
    halves = read_map(str(path)).applied_to(tensors)
    assert [halves[name].shape for name in halves] == [(2, 3), (2, 3)]
    path = write_map(tmp_path, "[[rule]]\ntranspose = 'a'\n")
    with pytest.raises(ValueError, match="or transposed"):
        read_map(str(path)).applied_to(tensors)


def test_rules_that_match_nothing_are_warned_of(tmp_path: Path) -> None:
    text = (
        "[names]\nnothing = 'x'\n[[rule]]\nrename = 'none'\nto = 'y'\n[[rule]]\ntranspose = 'z'\n"
    )
    path = write_map(tmp_path, text)
    report = ckptdiff.diff({"a": random(2)}, {"a": random(2)}, map=path)
    assert report.notes == (
        f"{path}: [names] has 'nothing', which is no tensor",
        f"{path}: rule 1 (rename) matches no tensor",
        f"{path}: rule 2 (transpose) matches no tensor",
    )


# The order of renames, map and globs.


def test_renames_come_before_a_map_and_globs_after_it() -> None:
    value, other = random(4, 4), random(4, 4, seed=1)
    native = {
        "odd.blocks.0.attention.w_q.weight": value,
        "odd.blocks.0.attention.w_k.weight": other,
    }
    hf = {
        "model.layers.0.self_attn.q_proj.weight": value,
        "model.layers.0.self_attn.k_proj.weight": other,
    }
    assert len(ckptdiff.diff(native, hf)) == 0
    report = ckptdiff.diff(native, hf, rename=r"^odd\.=", include="*.q_proj.*")
    assert report.map == "olmo-core-to-hf"
    assert [row.name for row in report] == ["model.layers.0.self_attn.q_proj.weight"]
    assert report.notes == ()
    assert {(item.side, item.name, item.reason) for item in report.excluded} == {
        (side, "model.layers.0.self_attn.k_proj.weight", "not_included") for side in "ab"
    }
    report = ckptdiff.diff(native, hf, rename=r"^odd\.=", exclude="blocks.*")
    assert len(report) == 2
    assert report.notes == ("exclude 'blocks.*' matches no tensor",)


def test_a_map_by_name_needs_no_block_to_be_recognised_by() -> None:
    embeddings = random(8, 4)
    a, b = {"embeddings.weight": embeddings}, {"model.embed_tokens.weight": embeddings}
    assert ckptdiff.diff(a, b).map is None
    report = ckptdiff.diff(a, b, map="olmo-core-to-hf")
    assert (report.map, report.identical) == ("olmo-core-to-hf", True)
    report = ckptdiff.diff(a, b, map="hf-to-olmo")
    assert report.map is None
    assert report.notes[0] == "map 'hf-to-olmo' gives no tensor a partner"
    assert ckptdiff.diff({"module.w": embeddings}, {"w": embeddings}, map="wrappers").identical
    for nothing in ("none", None):
        assert len(ckptdiff.diff({"module.w": embeddings}, {"w": embeddings}, map=nothing)) == 0


# Tied weights.


def tied_pair() -> tuple[Arrays, Arrays]:
    """A model that stores its head twice and one that stores it once."""
    once = {"model.embed_tokens.weight": random(8, 4), "model.norm.weight": random(4)}
    return {**once, "lm_head.weight": once["model.embed_tokens.weight"].copy()}, once


def test_a_tied_weight_is_compared_with_its_twin() -> None:
    twice, once = tied_pair()
    for a, b, side in ((twice, once, "B"), (once, twice, "A")):
        report = ckptdiff.diff(a, b)
        assert report.identical
        # one count everywhere
        assert len(report) == len(report.a) == len(report.b) == report.total.tensors == 3
        assert {part.tensors for part in report.coverage.values()} == {3}
        assert report.remarks == (
            f"{side} does not store lm_head.weight: "
            "its tied twin model.embed_tokens.weight is compared, and counts as a tensor",
        )
        assert report.map is None
        (line,) = [line for line in repr(report).splitlines() if "twin" in line]
        assert line == report.remarks[0]
    twice["lm_head.weight"][3, 2] += 1
    report = ckptdiff.diff(once, twice)
    assert report["lm_head.weight"].max_abs_index == (3, 2)
    assert report["model.embed_tokens.weight"].verdict == "bit_identical"
    assert not ckptdiff.diff(once, twice, map="none").matches


def test_a_tied_weight_of_another_layout() -> None:
    twice, once = tied_pair()
    block = random(4, 4)
    once["model.layers.0.self_attn.q_proj.weight"] = block
    native = {
        "embeddings.weight": twice["model.embed_tokens.weight"],
        "lm_head.norm.weight": twice["model.norm.weight"],
        "lm_head.w_out.weight": twice["lm_head.weight"],
        "blocks.0.attention.w_q.weight": block,
    }
    report = ckptdiff.diff(native, once)
    assert report.identical
    assert "lm_head.weight" in report.rows.values("name")
    assert [remark.split()[0] for remark in report.remarks] == ["A", "B"]
    back = ckptdiff.diff(once, native, rename="q_proj=q_proj")
    assert back.identical
    assert back.a.stored_name("lm_head.w_out.weight") == "model.embed_tokens.weight"


@pytest.mark.parametrize(
    ("file", "text", "is_tied"),
    [
        ("config.json", '{"tie_word_embeddings": false}', False),
        ("config.json", '{"tie_word_embeddings": true}', True),
        ("config.json", "{}", True),
        ("config.json", "broken", True),
        ("config.yaml", "model:\n  weight_tying: false\n", False),
        ("config.yaml", "model:\n  weight_tying: true\n", True),
    ],
)
def test_a_config_can_say_that_weights_are_not_tied(
    file: str, text: str, is_tied: bool, tmp_path: Path
) -> None:
    twice, once = tied_pair()
    safetensors.numpy.save_file(once, tmp_path / "model.safetensors")
    (tmp_path / file).write_text(text)
    for path in (tmp_path / "model.safetensors", tmp_path):
        assert len(ckptdiff.diff(twice, path).only_in_a) == (0 if is_tied else 1)


def test_a_config_of_the_side_that_stores_the_head_counts_too(tmp_path: Path) -> None:
    twice, once = tied_pair()
    safetensors.numpy.save_file(twice, tmp_path / "model.safetensors")
    assert ckptdiff.diff(once, tmp_path).identical
    (tmp_path / "config.json").write_text('{"tie_word_embeddings": false}')
    for report in (ckptdiff.diff(once, tmp_path), ckptdiff.diff(tmp_path, once)):
        assert report.remarks == ()
        only = [*report.only_in_a, *report.only_in_b]
        assert [tensor.name for tensor in only] == ["lm_head.weight"]


@pytest.mark.parametrize("shape", [(8, 4), (4, 8)])
def test_a_head_of_another_name_leaves_no_tie_to_assume(shape: tuple[int, int]) -> None:
    twice, once = tied_pair()
    once["readout.weight"] = random(*shape, seed=3)
    report = ckptdiff.diff(once, twice)
    assert report.remarks == ()
    assert (len(report), len(report.a), len(report.b)) == (2, 3, 3)
    assert [tensor.name for tensor in report.only_in_a] == ["readout.weight"]
    assert [tensor.name for tensor in report.only_in_b] == ["lm_head.weight"]
    once["unrelated.weight"] = once.pop("readout.weight")[:3, :3].copy()
    assert len(ckptdiff.diff(once, twice).remarks) == 1


def test_a_head_of_another_shape_is_not_tied() -> None:
    twice, once = tied_pair()
    twice["lm_head.weight"] = random(10, 4)
    report = ckptdiff.diff(twice, once)
    assert [tensor.name for tensor in report.only_in_a] == ["lm_head.weight"]
    assert report.remarks == ()


# Proposals.


def strange_pair(layers: int = 3) -> tuple[Arrays, Arrays]:
    """The same weights under names that have nothing in common, a matrix the other way round."""
    a: Arrays = {"table": random(20, 8), "readout": random(20, 8, seed=4)}
    b: Arrays = {"tokens.weight": a["table"], "head.weight": a["readout"]}
    for layer in range(layers):
        left, right, wide = (random(8, 8, seed=10 * layer + k) for k in range(3))
        wide = random(8, 12, seed=layer)
        scale = np.ones(8, np.float32)
        a |= {
            f"stage.{layer}.left": left,
            f"stage.{layer}.right": right,
            f"stage.{layer}.wide": wide,
            f"stage.{layer}.attn_ln.weight": scale,
            f"stage.{layer}.mlp_ln.weight": scale,
        }
        b |= {
            f"layers.{layer}.k1.weight": left,
            f"layers.{layer}.k2.weight": right,
            f"layers.{layer}.k3.weight": wide.T.copy(),
            f"layers.{layer}.attention_norm.weight": scale,
            f"layers.{layer}.mlp_norm.weight": scale,
        }
    return a, b


def test_an_assertion_brings_names_together_only_when_told_to() -> None:
    value = random(3, 2)
    a, b = {"module.w": value}, {"w": value}
    with pytest.raises(AssertionError, match="1 tensor only in A"):
        assert_checkpoints_equal(a, b)
    assert_checkpoints_equal(a, b, map="auto")


def test_a_proposal_brings_everything_together(tmp_path: Path) -> None:
    a, b = strange_pair()
    proposal = ckptdiff.propose_map(a, b)
    assert (proposal.tensors, proposal.wanted) == (len(a), len(a))
    path = write_map(tmp_path, proposal.text)
    report = ckptdiff.diff(a, b, map=path)
    assert report.identical, proposal.text
    assert report.notes == ()
    names = {name: report.a.stored_name(name) for name in report.a}
    assert names["layers.2.k3.weight"] == "stage.2.wide"
    assert names["layers.1.attention_norm.weight"] == "stage.1.attn_ln.weight"
    assert "same bytes in 3 of 3" in proposal.text
    assert "the most similar in name" in proposal.text
    assert ckptdiff.propose_map(a, b).text == proposal.text


def test_bytes_of_one_layer_speak_for_all() -> None:
    """Layers were trained on, and one was frozen."""
    a, b = strange_pair()
    for layer in (1, 2):
        for part in ("k1", "k2"):
            b[f"layers.{layer}.{part}.weight"] = b[f"layers.{layer}.{part}.weight"] + 1
    text = ckptdiff.propose_map(a, b).text
    assert text.count("same bytes in 1 of 3") == 2
    assert r"rename = '^stage\.([0-9]+)\.left$'" + "\nto = 'layers.\\g<1>.k1.weight'" in text


def test_what_could_be_either_is_not_proposed() -> None:
    one, two = random(8, 8), random(8, 8, seed=1)
    a = {"x": one, "y": two, "z": random(3)}
    b = {"p": one + 1, "q": two + 1, "r": random(3, seed=5)}
    text = ckptdiff.propose_map(a, b).text
    assert "'z' = 'r'  # the only ones of such numbers and shapes" in text
    assert "'x'" not in text
    assert "'y'" not in text
    with pytest.raises(ValueError, match="no map to propose: of the tensors without a partner"):
        ckptdiff.propose_map({"x": one, "y": two}, {"p": one + 1, "q": two + 1})
    # names that are as much alike as others
    alike = {f"attention.{name}": one + k for k, name in enumerate(("first", "second"))}
    others = {f"attention.{name}": one - k - 1 for k, name in enumerate(("third", "fourth"))}
    with pytest.raises(ValueError, match="no map to propose"):
        ckptdiff.propose_map(alike, others)
    # the same bytes twice say nothing either
    with pytest.raises(ValueError, match="no map to propose"):
        ckptdiff.propose_map({"x": one, "y": one}, {"p": one, "q": one})


def test_bytes_that_speak_for_two_series_speak_for_single_tensors() -> None:
    one, two = random(8, 8), random(8, 8, seed=1)
    a = {"s.0.x": one, "s.1.x": two}
    b = {"p.0.x": one, "p.1.x": two + 1, "q.0.x": one + 1, "q.1.x": two}
    proposal = ckptdiff.propose_map(a, b)
    assert proposal.tensors == 2
    names = proposal.text.partition("[names]\n")[2]
    assert names == "'s.0.x' = 'p.0.x'  # same bytes\n's.1.x' = 'q.1.x'  # same bytes\n"


AWKWARD = [
    "it's",
    'say "x"',
    "back\\slash",
    "a+b(c)[d]",
    "line\nbreak",
    "\U0001f600",
    "#",
    "\t",
    "\x7f",
]


def test_names_that_toml_and_regular_expressions_would_misread(tmp_path: Path) -> None:
    """As names of single tensors, and as names of series, which become regular expressions."""
    single: Arrays = {name: random(5, seed=place) for place, name in enumerate(AWKWARD)}
    new = {f"new{place} {name}": single[name] for place, name in enumerate(AWKWARD)}
    series: Arrays = {
        f"{name}.{layer}.w": random(5, seed=100 * layer + place)
        for place, name in enumerate(AWKWARD)
        for layer in (0, 1)
    }
    turned = {
        f"new{place}.{layer}.\\1{name}": series[f"{name}.{layer}.w"]
        for place, name in enumerate(AWKWARD)
        for layer in (0, 1)
    }
    for a, b in ((single, new), (series, turned)):
        proposal = ckptdiff.propose_map(a, b)
        assert proposal.tensors == len(a)
        report = ckptdiff.diff(a, b, map=write_map(tmp_path, proposal.text))
        assert report.identical, proposal.text


def test_nothing_to_propose_where_names_agree() -> None:
    with pytest.raises(ValueError, match="every tensor of A has a partner by its name"):
        ckptdiff.propose_map({"a": random(2)}, {"a": random(2), "b": random(3)})


# The command line.


def test_the_command_line_says_which_map_it_used(tmp_path: Path) -> None:
    value = random(4, 4)
    a, b = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    safetensors.numpy.save_file({"blocks.0.attention.w_q.weight": value}, a)
    safetensors.numpy.save_file({"model.layers.0.self_attn.q_proj.weight": value}, b)
    outcome = invoke("diff", a, b)
    assert outcome.status == 0, outcome
    said = "A is mapped to B's names by olmo-core-to-hf (1 tensor)"
    assert said in outcome.stdout.splitlines()
    assert said in invoke("diff", a, b, "--format", "markdown").stdout
    assert said.replace("'", "&#x27;") in ckptdiff.diff(a, b)._repr_html_()
    document = json.loads(invoke("diff", a, b, "--format", "json").stdout)
    assert document["options"]["map"] == "auto"
    assert document["summary"]["map"] == "olmo-core-to-hf"
    assert document["summary"]["remarks"] == [said]
    unmapped = invoke("diff", a, b, "--map", "none")
    assert unmapped.status == 1
    assert "olmo-core" not in unmapped.stdout
    assert_one_line_of_trouble(
        invoke("diff", a, b, "--map", "olmo-core-to-h"), "did you mean 'olmo-core-to-hf'?"
    )
    missing = tmp_path / "missing.toml"
    assert_one_line_of_trouble(
        invoke("diff", a, b, "--map", missing), str(missing), "no such map file"
    )


def test_the_command_line_proposes_a_map(tmp_path: Path) -> None:
    a, b = strange_pair()
    first, second = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    safetensors.numpy.save_file(a, first)
    safetensors.numpy.save_file(b, second)
    outcome = invoke("diff", first, second)
    assert outcome.status == 1
    assert "no tensor has a partner; --propose-map - prints a map, looked for" in outcome.stderr
    printed = invoke("diff", first, second, "--propose-map", "-")
    assert printed.status == 0
    assert printed.stdout == ckptdiff.propose_map(first, second).text
    assert "the proposal: gives " in printed.stderr
    file = tmp_path / "proposed.toml"
    outcome = invoke("diff", first, second, "--propose-map", file)
    assert (outcome.status, outcome.stdout) == (0, "")
    assert outcome.stderr == (
        f"ckptdiff: {file}: gives {len(a)} of {len(a)} tensors a partner; "
        f"read it, then use --map {file}\n"
    )
    assert invoke("diff", first, second, "--map", file).status == 0
    assert_one_line_of_trouble(
        invoke("diff", first, first, "--propose-map", file), "no map to propose"
    )
    nowhere = tmp_path / "no" / "file.toml"
    assert_one_line_of_trouble(invoke("diff", first, second, "--propose-map", nowhere), "file.toml")


# Many tensors.

MANY = 200_000


def test_many_tensors_whose_names_agree_cost_nothing_and_others_little(tmp_path: Path) -> None:
    experts = 512
    native = {
        f"model.layers.{i // experts}.mlp.experts.{i % experts}.gate_proj.weight": (1, 2)
        for i in range(MANY)
    }
    a = write_sparse(tmp_path / "a.safetensors", native)
    b = write_sparse(
        tmp_path / "b.safetensors", {f"module.{name}": shape for name, shape in native.items()}
    )
    opened_a, opened_b = ckptdiff.open(a), ckptdiff.open(b)
    from ckptdiff.naming.rules import Rules
    from ckptdiff.pairing import pair

    start = time.process_time()
    sides = pair(opened_a, opened_a, Rules(), "auto")
    agreeing = time.process_time() - start
    assert len(sides.pairing) == MANY
    assert sides.a is opened_a
    # 0.03 s on an idle machine
    assert agreeing < 1
    start = time.process_time()
    sides = pair(opened_b, opened_a, Rules(), "auto")
    mapped = time.process_time() - start
    assert len(sides.pairing) == MANY
    assert sides.map == "wrappers"
    # 2 s on an idle machine
    assert mapped < 20


def test_two_tensors_of_one_name_but_for_wrappers_are_no_partner() -> None:
    a = {"module.x.weight": random(3), "module.model.x.weight": random(3), "module.y": random(2)}
    b = {"x.weight": a["module.x.weight"], "y": a["module.y"]}
    report = ckptdiff.diff(a, b)
    assert [row.name for row in report.rows] == ["y"]
    assert [tensor.name for tensor in report.only_in_b] == ["x.weight"]
    back = ckptdiff.diff(b, a)
    assert [row.name for row in back.rows] == ["module.y"]
    assert len(back.only_in_b) == 2
