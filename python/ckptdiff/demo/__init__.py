"""A small pair of checkpoints to try things on, shaped and named as OLMo 2 is."""
