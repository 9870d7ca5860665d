"""Pre-trainings: masked autoencoding of the encoder, and a promptable segmenter on clean pairs."""
