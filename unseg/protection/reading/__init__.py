"""One image of a data set, read and understood: pixels, region, prompts."""
