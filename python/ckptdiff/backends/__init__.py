"""Other means than the core's kernels to reduce tensors, with the same partials and reports."""
