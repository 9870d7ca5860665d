"""Pictures, files, locks and tensors from untrusted files: every byte that enters or leaves."""
