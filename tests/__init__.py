"""The test suite of ckptdiff.

The oracle (:mod:`tests.oracle`) is float64 numpy, or Python integers where 64 bits need them,
and shares no code with the package; the writers (:mod:`tests.writers`) build files from raw bytes.
"""
