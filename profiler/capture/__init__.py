"""Hooks that live in the user's training process: the least that can be done there, and no decision.

Nothing here may import from `analysis`, `rules`, `report` or `cli`, nor numpy, plotly, jinja2 or rich.
Imports within the package are relative: the launcher loads it under a private name, so that a user's own
module called `profiler` stays theirs.
"""
