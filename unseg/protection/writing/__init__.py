"""Protected pictures on the disk, their records, and the proof of their budget."""
