"""How upstream's layers begin: a matrix drawn in one of four ways, zeros added; for training from the start in NNX.

Source: He et al. 2015 (arXiv:1502.01852) for the gain of relu, Glorot and Bengio 2010 for the mean of both widths.
"""

import math

import jax
from jaxtyping import Array, Float

DEVIATIONS = {
    "kaiming_uniform": lambda inputs, outputs: math.sqrt(2 / inputs),
    "kaiming_normal": lambda inputs, outputs: math.sqrt(2 / inputs),
    "xavier_uniform": lambda inputs, outputs: math.sqrt(2 / (inputs + outputs)),
    "xavier_normal": lambda inputs, outputs: math.sqrt(2 / (inputs + outputs)),
}
"""`init_type` of LinearLayer -> the deviation of its weights. Words and attention begin as xavier_uniform."""


def kernel(init_type: str, inputs: int, outputs: int, key: Array) -> Float[Array, "inputs outputs"]:
    """Draw a matrix that leads from `inputs` numbers to `outputs`.

    Raises:
        ValueError: upstream knows no such way.
    """
    if init_type not in DEVIATIONS:
        raise ValueError(f"init_type is {init_type}, expected one of {', '.join(DEVIATIONS)}")
    deviation, shape = DEVIATIONS[init_type](inputs, outputs), (inputs, outputs)
    if init_type.endswith("normal"):
        return deviation * jax.random.normal(key, shape)
    bound = deviation * math.sqrt(3)
    return jax.random.uniform(key, shape, minval=-bound, maxval=bound)


def feed_forward(activation: str, width: int, inner: int, outputs: int, key: Array) -> tuple[Array, Array]:
    """Draw both matrices of a FeedForwardBlock: before relu by its gain, else by the mean of both widths."""
    one, other = jax.random.split(key)
    first = "kaiming_uniform" if activation == "relu" else "xavier_uniform"
    return kernel(first, width, inner, one), kernel("xavier_uniform", inner, outputs, other)
