"""Small helpers without knowledge of the method: files, seeds, logs, processes."""
