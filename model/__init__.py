"""What is a network? One folder per family, found by looking; shared words, operators and layers beside them."""
