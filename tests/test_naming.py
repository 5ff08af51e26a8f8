"""Names: which tensors are compared, under which name, and which group they belong to."""

from __future__ import annotations

from collections.abc import Sequence

import ckptdiff
import numpy as np
import pytest
from ckptdiff.naming.groups import group_key, layer, module
from ckptdiff.naming.rules import Named, Rules, apply_rules, parse_rename, unmatched

# Groups.


@pytest.mark.parametrize(
    ("name", "in_layer", "in_module"),
    [
        ("model.layers.3.mlp.up_proj.weight", "model.layers.3", "model.layers.*.mlp.up_proj"),
        ("transformer.h.11.ln_1.bias", "transformer.h.11", "transformer.h.*.ln_1"),
        # an expert of a layer belongs to the layer
        ("model.layers.2.mlp.experts.17.w", "model.layers.2", "model.layers.*.mlp.experts.*"),
        ("lm_head.weight", "lm_head", "lm_head"),
        ("model.embed_tokens.weight", "model.embed_tokens", "model.embed_tokens"),
        ("bias", "bias", "bias"),
        ("0", "0", "*"),
        ("0.weight", "0", "*"),
        ("net.0", "net.0", "net"),
        ("layers.007.w", "layers.007", "layers.*"),
        # digits inside a component are no number of a layer
        ("block12.conv1.weight", "block12.conv1", "block12.conv1"),
        ("layer_3.w", "layer_3", "layer_3"),
        ("a.3b.w", "a.3b", "a.3b"),
        # digits of another script are not meant
        ("layers.٣.w", "layers.٣", "layers.٣"),
        ("", "", ""),
        (".", ".", "."),
        ("a..1.w", "a..1", "a..*"),
        ("a.1.\n.w", "a.1", "a.*.\n"),
        ("a\n.b.1.c.w", "a\n.b.1", "a\n.b.*.c"),
        ("1.2.3", "1", "*.*"),
    ],
)
def test_layer_and_module_of_a_name(name: str, in_layer: str, in_module: str) -> None:
    assert layer(name) == in_layer
    assert module(name) == in_module
    assert group_key("layer")(name) == in_layer
    assert group_key("module")(name) == in_module
    assert group_key("total")(name) == "total"


def test_an_unknown_grouping_suggests_the_nearest() -> None:
    with pytest.raises(ValueError, match="did you mean 'layer'"):
        group_key("layers")  # type: ignore[arg-type]


# Rename rules.


@pytest.mark.parametrize(
    ("rule", "before", "after"),
    [
        (r"^blocks\.(\d+)=model.layers.\1", "blocks.7.w", "model.layers.7.w"),
        ("a=b", "a.a", "b.b"),
        ("^a=", "a.w", ".w"),
        # split at the last '=': a lookahead and a named group hold one
        (r"w(?=\.)=v", "w.w", "v.w"),
        (r"(?<=x)w=v", "xw.w", "xv.w"),
        (r"(?P<n>\d+)=<\g<n>>", "l.12", "l.<12>"),
        (("a", "b=c"), "a", "b=c"),
        (("=", "-"), "a=b", "a-b"),
    ],
)
def test_a_rename_rule(rule: str | tuple[str, str], before: str, after: str) -> None:
    rename = parse_rename(rule)
    assert rename.pattern.sub(rename.replacement, before) == after


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("blocks", "no '='"),
        ("=model", "empty regular expression"),
        ("(=x", "no regular expression"),
        (r"a=\1", "bad replacement"),
        (r"(?P<n>a)=\g<m>", "bad replacement"),
        (("", "x"), "empty regular expression"),
    ],
)
def test_a_bad_rename_rule_says_what_is_wrong(rule: str | tuple[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_rename(rule)


def test_rules_apply_one_after_the_other() -> None:
    rules = Rules.of(rename=["a=b", "b=c"])
    # B's names go through no rules, and are not even copied
    assert apply_rules(["a", "b"], Rules.of(rename=["a=x", "b=y"]), ()).names is None
    swapped = apply_rules(["a1", "x2"], rules, rules.renames)
    assert swapped.names == ["c1", "x2"]


def test_a_rename_that_makes_two_names_one_is_refused() -> None:
    rules = Rules.of(rename=r"\.\d+=")
    with pytest.raises(ValueError, match=r"'w' of both 'w\.0' and 'w\.1'"):
        apply_rules(["w.0", "w.1"], rules, rules.renames)
    # not where a glob leaves one of the two out
    rules = Rules.of(exclude="gone*", rename=r"^b$=gone")
    assert apply_rules(["a", "b"], rules, rules.renames).names == ["a", None]


# Globs.


def chosen(
    names: Sequence[str], include: str | list[str] = (), exclude: str | list[str] = ()
) -> list[str]:
    rules = Rules.of(include, exclude)
    named = apply_rules(names, rules, ())
    return [name for index, name in enumerate(names) if named.keeps(index)]


def test_globs_choose() -> None:
    names = ["a.0.w", "a.0.b", "a.10.w", "A.0.w", "c[1].w"]
    assert chosen(names, "a.*") == ["a.0.w", "a.0.b", "a.10.w"]
    assert chosen(names, "*.w", "a.*") == ["A.0.w", "c[1].w"]
    assert chosen(names, exclude=["*.b", "c*"]) == ["a.0.w", "a.10.w", "A.0.w"]
    assert chosen(names, "a.?.w") == ["a.0.w"]
    assert chosen(names, "a.[!0]*") == ["a.10.w"]
    # the whole name has to match, and brackets are quoted as in a shell
    assert chosen(names, "a") == []
    assert chosen(names, "c[[]1].w") == ["c[1].w"]
    assert chosen(["a\nb"], "a*") == ["a\nb"]


def test_globs_see_renamed_names_and_name_the_reason() -> None:
    arrays = {name: np.zeros(1, np.float32) for name in ("old.w", "keep.w", "old-drop.w")}
    others = {name: np.zeros(1, np.float32) for name in ("new.w", "keep.w")}
    report = ckptdiff.diff(
        arrays, others, rename="^old=new", include=["new.*", "keep.*"], exclude="keep.*"
    )
    assert [row.name for row in report] == ["new.w"]
    assert sorted(report.excluded) == [
        ("a", "keep.w", "excluded"),
        ("a", "new-drop.w", "not_included"),
        ("b", "keep.w", "excluded"),
    ]
    assert not report.only_in_a
    assert not report.only_in_b


def test_a_rename_applies_to_a_alone() -> None:
    arrays = {"old.w": np.zeros(1, np.float32)}
    for include in ((), "*"):
        report = ckptdiff.diff(arrays, arrays, rename="^old=new", include=include)
        assert [tensor.name for tensor in report.only_in_a] == ["new.w"]
        assert [tensor.name for tensor in report.only_in_b] == ["old.w"]


# Rules that match nothing.


def test_a_rule_that_matches_nothing_is_reported() -> None:
    arrays = {"a.w": np.zeros(1, np.float32), "b.w": np.zeros(1, np.float32)}
    report = ckptdiff.diff(
        arrays, arrays, include=["*.w", "*.x"], exclude="c*", rename=["^q=r", "^a=b2"]
    )
    assert report.notes == (
        "include '*.x' matches no tensor",
        "exclude 'c*' matches no tensor",
        "rename '^q=r' matches no tensor",
    )
    assert ckptdiff.stats(arrays, exclude="z").notes == ("exclude 'z' matches no tensor",)


def test_a_rule_is_used_if_one_side_has_a_name_for_it() -> None:
    rules = Rules.of("x*", "y*")
    used, unused = Named(None, matched=frozenset({"include x*"})), Named(None)
    assert unmatched(rules, used, unused) == ["exclude 'y*' matches no tensor"]


def test_a_glob_shadowed_by_another_is_not_called_unused() -> None:
    rules = Rules.of(["a*", "*"], ["ab", "a?"])
    assert unmatched(rules, apply_rules(["ab", "c"], rules, ())) == []


def test_leaving_nothing_is_an_error() -> None:
    arrays = {"a.w": np.zeros(1, np.float32)}
    for options in ({"include": "b*"}, {"exclude": "*"}):
        with pytest.raises(ValueError, match="leave none of"):
            ckptdiff.diff(arrays, arrays, **options)
        with pytest.raises(ValueError, match="leave none of 1 tensors"):
            ckptdiff.stats(arrays, **options)
