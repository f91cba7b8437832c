"""A plan for people: a terminal table and an HTML page."""
