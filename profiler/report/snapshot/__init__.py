"""A snapshot of torch's allocator for people: a terminal table, an HTML page, JSON."""
