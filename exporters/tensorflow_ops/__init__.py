"""A traced JAX program as ordinary TensorFlow operators, for readers that have no XLA."""
