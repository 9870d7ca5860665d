"""Sub-commands of `unseg`: each module has `main(argv) -> int`."""
