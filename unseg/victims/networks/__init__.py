"""The networks that are trained as victims, by name, and their weights."""
