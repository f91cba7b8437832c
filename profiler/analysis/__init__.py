"""From the events of a run to facts about it: pure functions over values."""
