"""The `prof` command: one file per command, thin: parse, call one function, print."""
