"""The run on disk: the event vocabulary, the writer, the run folder and its readers."""
