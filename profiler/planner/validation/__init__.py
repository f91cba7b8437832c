"""The planner's formulas against published results: every row with its error, and the misses explained.

python -m profiler.planner.validation docs/planner-validation.md [--check]
"""
