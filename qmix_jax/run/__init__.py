"""One training run: the compiled program, the host loop, and the files of its folder."""
