"""Labels of checkpoints: every way to write them that a published series has."""

from __future__ import annotations

from typing import Any

import pytest
from ckptdiff.naming.revisions import Revision, parse_revision

BILLION = 10**9

# label -> the fields that it has; all others are None or empty
LABELS: dict[str, dict[str, Any]] = {
    # OLMo 1
    "step1000-tokens4B": {"step": 1000, "tokens": 4 * BILLION, "tokens_unit": BILLION},
    "step1000-unsharded": {"step": 1000},
    "main": {},
    # OLMo 2
    "stage1-step928646-tokens3896B": {
        "stage": 1, "step": 928646, "tokens": 3896 * BILLION, "tokens_unit": BILLION,
    },
    "stage2-ingredient1-step11931-tokens50B": {
        "stage": 2, "ingredient": 1, "ingredients": (1,), "step": 11931,
        "tokens": 50 * BILLION, "tokens_unit": BILLION,
    },
    "olmo-7b-1124_stage2_ingredient3": {"stage": 2, "ingredient": 3, "ingredients": (3,)},
    # OLMo 3
    "stage1-step960000": {"stage": 1, "step": 960000},
    "stage3-step9000": {"stage": 3, "step": 9000},
    "stage3_longcontext": {"stage": 3, "phase": "longcontext"},
    "stage_3_longcontext": {"stage": 3, "phase": "longcontext"},
    "stage3_longcontext-step9000": {"stage": 3, "phase": "longcontext", "step": 9000},
    "stage1_step100": {"stage": 1, "step": 100},
    # soups
    "step11921+11000+10000": {"step": 11921, "steps": (11921, 11000, 10000)},
    "stage2-ingredient1+2-step23842": {"stage": 2, "ingredients": (1, 2), "step": 23842},
    "stage2-soup": {"stage": 2, "is_called_soup": True},
    "soupy-step5": {"step": 5},
    # Pythia, BLOOM, Apertus, SmolLM3, FineWeb
    "step0": {"step": 0},
    "step143000": {"step": 143000},
    "global_step1000": {"step": 1000},
    "step2627139-tokens15T": {
        "step": 2627139, "tokens": 15 * 10**12, "tokens_unit": 10**12,
    },
    "stage1-step-40000": {"stage": 1, "step": 40000},
    "lc-4k-to-32k-step-4000": {"phase": "lc-4k-to-32k", "step": 4000},
    "step-001000-2BT": {"step": 1000, "tokens": 2 * BILLION, "tokens_unit": BILLION},
    # TinyLlama, whose name has a number of parameters
    "step-480k-token-1007B": {
        "step": 480_000, "tokens": 1007 * BILLION, "tokens_unit": BILLION,
    },
    "TinyLlama-1.1B": {},
    "TinyLlama-1.1B-Chat-v1.0": {},
    "TinyLlama-1.1B-step-50K-105b": {
        "step": 50_000, "tokens": 105 * BILLION, "tokens_unit": BILLION,
    },
    "TinyLlama-1.1B-intermediate-step-1431k-3T": {
        "step": 1_431_000, "tokens": 3 * 10**12, "tokens_unit": 10**12,
    },
    "TinyLlama-1.1B-intermediate-step-715k-1.5T": {
        "step": 715_000, "tokens": 15 * 10**11, "tokens_unit": 10**11,
    },
    # Amber counts checkpoints
    "ckpt_356": {"index": 356},
    # trainers
    "checkpoint-500": {"step": 500},
    "0000020000": {"step": 20000},
    "500": {"step": 500},
    "iter_0001000": {"step": 1000},
    "epoch=1-step=1000": {"step": 1000},
    "step1000-tokens4194304000": {"step": 1000, "tokens": 4194304000, "tokens_unit": 1},
    "Step1000": {"step": 1000},
    # what is no position
    "OLMo-2-1124-7B": {},
    "checkpoint_2024-01-31": {},
    "my-checkpoint-7b": {},
    "timestep100": {},
    "stages2": {},
    "model-00001-of-00002": {},
    "5f0b02c75b57c5855da9ae460ce51323ea669d8a": {},
    "1234567890123456": {},
    "step": {},
    "": {},
}  # fmt: skip


@pytest.mark.parametrize("label", LABELS)
def test_a_label_is_read_as_its_series_means_it(label: str) -> None:
    fields = dict(LABELS[label])
    if "step" in fields:
        fields.setdefault("steps", (fields["step"],))
    assert parse_revision(label) == Revision(label=label, **fields)


def test_a_soup_is_known_by_its_parts() -> None:
    soups = [label for label in LABELS if parse_revision(label).is_soup]
    assert soups == [
        "step11921+11000+10000",
        "stage2-ingredient1+2-step23842",
        "stage2-soup",
    ]


def test_a_label_without_a_position_says_nothing() -> None:
    silent = {label for label in LABELS if parse_revision(label).says_nothing}
    assert silent == {label for label, fields in LABELS.items() if not fields}


def test_what_decimals_of_steps_and_tokens_mean() -> None:
    assert parse_revision("step-1.1k").step == 1100
    assert parse_revision("step1-tokens1.5T").tokens_unit == 10**11
    assert parse_revision("step1-tokens2.75B").tokens == 2_750_000_000
