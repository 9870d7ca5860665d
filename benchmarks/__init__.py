"""Speed of UnSeg, side by side with the plain path: `python -m benchmarks NAME...`."""
