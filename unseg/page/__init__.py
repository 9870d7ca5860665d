"""The local web page (extra `[demo]`)."""
