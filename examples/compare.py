"""Put two runs side by side: what held each back, and how long a step took.

python examples/compare.py reports/demo-slow reports/demo-cured
"""

import json
import sys
from pathlib import Path

slow, cured = (json.loads((Path(run) / "summary.json").read_text()) for run in sys.argv[1:3])

for run, summary in zip(sys.argv[1:3], (slow, cured), strict=True):
    print(f"\n{run}\n  {summary['verdict']['summary']}\n  report: {Path(run) / 'report.html'}")

before, after = slow["steps"]["median_ms"], cured["steps"]["median_ms"]
print(f"\n{slow['verdict']['bottleneck']} -> {cured['verdict']['bottleneck']}")
print(f"a step took {before:.1f} ms, and takes {after:.1f} ms: {before / after:.2f} times as fast")
for finding in slow["findings"]:
    if finding["gain"] and finding["rule"] == slow["verdict"]["rule"]:
        low, high = finding["gain"]["step_ms_low"], finding["gain"]["step_ms_high"]
        print(f"{finding['rule']} had promised {low:.1f} to {high:.1f} ms for its own fix, which need not be this one")
