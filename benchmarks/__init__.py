"""How much CPU a request costs, against floors, a textbook broker and the goals: `python -m benchmarks`. docs/performance.md."""
