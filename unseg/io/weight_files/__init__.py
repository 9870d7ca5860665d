"""Weight files of strangers: read without running their code or believing their sizes."""
