"""Training loops; each is one file, and every update rule plugs into one of them."""
