"""dallemini beside min-dalle: the parts of the command `tests/benchmarks/speed.py`."""
