"""From a snapshot of the allocator to facts: what held the memory, and why there was none left."""
