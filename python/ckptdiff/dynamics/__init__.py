"""Many checkpoints of one training run: their order, what moved, and what to say of it."""
