"""The kernels' reductions in torch operations, for tensors on any device that torch knows."""
