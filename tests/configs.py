"""Configs as trainers wrote them, shortened where they repeat: for tests that need no trainer."""

from __future__ import annotations

import json
from typing import Any

# OLMo-core, version 3: the model of OLMo 2 7B, its optimizer, its schedule and its data loader.
OLMO_CORE = """
{
 "run_name": "olmo2-7B",
 "model": {
  "d_model": 4096,
  "vocab_size": 100352,
  "n_layers": 32,
  "block": {
   "sequence_mixer": {
    "name": "default",
    "n_heads": 32,
    "bias": false,
    "rope": {
     "name": "default",
     "theta": 500000,
     "full_precision": true,
     "_CLASS_": "olmo_core.nn.rope.RoPEConfig"
    },
    "qk_norm": {"name": "rms", "eps": 1e-06, "bias": false},
    "_CLASS_": "olmo_core.nn.attention.AttentionConfig",
    "type": "attention"
   },
   "layer_norm": {"name": "rms", "eps": 1e-06, "bias": false},
   "feed_forward": {"hidden_size": 11008, "name": "default", "bias": false},
   "name": "reordered_norm",
   "_CLASS_": "olmo_core.nn.transformer.config.TransformerBlockConfig"
  },
  "lm_head": {"name": "default"},
  "tie_word_embeddings": false,
  "_CLASS_": "olmo_core.nn.transformer.config.TransformerConfig"
 },
 "dataset": {
  "mix": "OLMo-mix-1124",
  "sequence_length": 4096,
  "work_dir": "/scratch/dataset-cache",
  "_CLASS_": "olmo_core.data.numpy_dataset.NumpyFSLDatasetConfig"
 },
 "data_loader": {"global_batch_size": 4194304, "seed": 34521, "num_workers": 4},
 "train_module": {
  "rank_microbatch_size": 8192,
  "max_sequence_length": 4096,
  "optim": {
   "lr": 0.0003,
   "betas": [0.9, 0.95],
   "weight_decay": 0.1,
   "_CLASS_": "olmo_core.optim.adamw.SkipStepAdamWConfig",
   "type": "skip_step_adamw"
  },
  "scheduler": {
   "lr_field": "lr",
   "initial_lr_field": "initial_lr",
   "units": "steps",
   "warmup": 2000,
   "alpha_f": 0.1,
   "warmup_min_lr": 0.0,
   "_CLASS_": "olmo_core.optim.scheduler.CosWithWarmup",
   "type": "cos_with_warmup"
  }
 },
 "trainer": {"max_duration": {"value": 5000000000000, "unit": "tokens"}},
 "init_seed": 12536
}
"""

# Before there were train modules: the optimizer one level up, the scheduler in a callback, the
# attention under its first name, steps in the scheduler's names.
OLMO_CORE_FIRST_VERSION = """
{
 "model": {
  "d_model": 5120, "vocab_size": 100352, "n_layers": 64,
  "block": {
   "attention": {"name": "default", "n_heads": 40, "n_kv_heads": 8,
                 "rope": {"name": "default", "theta": 500000}},
   "layer_norm": {"name": "rms", "eps": 1e-06},
   "feed_forward": {"hidden_size": 27648},
   "name": "reordered_norm"
  }
 },
 "optim": {"lr": 0.0006, "weight_decay": 0.1},
 "dataset": {"sequence_length": 4096, "paths": ["a.npy", "b.npy"]},
 "data_loader": {"global_batch_size": 8388608, "seed": 34521},
 "trainer": {
  "max_duration": {"value": 6500000000000, "unit": "tokens"},
  "callbacks": {
   "lr_scheduler": {
    "scheduler": {"warmup_steps": 2000, "alpha_f": 0.1, "t_max": 774861,
                  "_CLASS_": "olmo_core.optim.scheduler.CosWithWarmup"}
   }
  }
 }
}
"""

# The first generation's trainer, with which OLMo 2 7B was trained: stage 1.
OLMO_YAML = """\
run_name: OLMo2-7B-stage1
seed: 6198
model:
  d_model: 4096
  n_heads: 32
  n_layers: 32
  mlp_hidden_size: 22016
  weight_tying: false
  rope: true
  rope_theta: 500000
  include_bias: false
  layer_norm_type: rms
  layer_norm_eps: 1e-6
  activation_type: swiglu
  max_sequence_length: 4096
  vocab_size: 100278
  embedding_size: 100352
compile: null
optimizer:
  name: adamw
  learning_rate: 3.0e-4
  weight_decay: 0.1
  betas:
  - 0.9
  - 0.95
scheduler:
  name: cosine_with_warmup
  units: tokens
  t_warmup: 8388608000
  t_max: 5e12
  alpha_f: 0.1
  warmup_min_lr: 0.0
max_duration: 1ep
global_train_batch_size: 1024
device_eval_batch_size: ${device_train_microbatch_size}
data:
  paths:
    # ProofPile 2: Algebraic Stack Data
    - http://olmo-data.org/preprocessed/part-00-00000.npy
    - http://olmo-data.org/preprocessed/part-01-00000.npy
"""

# Stage 2, ingredient 1.
OLMO_STAGE_2_YAML = (
    OLMO_YAML.replace("seed: 6198", "seed: 42")
    .replace("learning_rate: 3.0e-4", "learning_rate: 0.000061499")
    .replace("max_duration: 1ep", "max_duration: 50e9T")
    .replace("part-0", "dolmino-0")
)
_SCHEDULER = OLMO_STAGE_2_YAML[
    OLMO_STAGE_2_YAML.index("scheduler:") : OLMO_STAGE_2_YAML.index("max_duration:")
]
OLMO_STAGE_2_YAML = OLMO_STAGE_2_YAML.replace(
    _SCHEDULER,
    "scheduler:\n  name: linear_with_warmup\n  t_warmup: 0\n  alpha_f: 0\n",
)


def olmo_core(**changes: Any) -> str:
    """:data:`OLMO_CORE` with other values at dotted keys, ``__`` for the dots."""
    config = json.loads(OLMO_CORE)
    for key, value in changes.items():
        *path, last = key.split("__")
        holder = config
        for part in path:
            holder = holder[part]
        if value is None:
            del holder[last]
        else:
            holder[last] = value
    return json.dumps(config)
