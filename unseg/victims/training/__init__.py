"""Training a victim, with the defences that change a training, and its scores."""
