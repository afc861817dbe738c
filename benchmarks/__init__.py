"""Performance benches: `python -m benchmarks` runs all, `python -m benchmarks.loader` one."""
