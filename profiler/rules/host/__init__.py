"""Python that runs on the training thread."""
