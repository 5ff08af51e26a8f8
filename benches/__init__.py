"""How fast: ``python -m benches.table`` prints the comparison, ``bench_diff.py`` is for pytest."""
