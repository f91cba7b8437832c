"""Makes `facts_builder`, and the builders of traces beside it, importable, whatever pytest's import mode."""

import sys
from pathlib import Path

for folder in ("rules", "record", "analysis"):
    sys.path.insert(0, str(Path(__file__).parents[1] / folder))
