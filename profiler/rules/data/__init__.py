"""How batches are read, made and handed over."""
