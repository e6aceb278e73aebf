"""A small network of one's own that sees pictures: patches mixed by place and by channel (Trockman and Kolter 2022)."""

import torch
from torch import Tensor, nn


class Mixer(nn.Module):
    """A depthwise convolution beside what it is given, then a mix of the channels: (rows, width, height, width)."""

    def __init__(self, width: int, kernel: int):
        super().__init__()
        self.places = nn.Conv2d(width, width, kernel, groups=width, padding=kernel // 2)
        self.channels = nn.Conv2d(width, width, kernel_size=1)
        self.norms = nn.ModuleList([nn.BatchNorm2d(width), nn.BatchNorm2d(width)])

    def forward(self, x: Tensor) -> Tensor:
        """Mix."""
        x = x + self.norms[0](nn.functional.gelu(self.places(x)))
        return self.norms[1](nn.functional.gelu(self.channels(x)))


class Pictures(nn.Module):
    """Pixels, (rows, 3, height, width) -> scores of classes and a vector of length 1."""

    def __init__(self, width: int = 32, patch: int = 4, kernel: int = 5, depth: int = 3, classes: int = 10):
        super().__init__()
        self.patches = nn.Conv2d(3, width, patch, stride=patch)
        self.mixers = nn.Sequential(*(Mixer(width, kernel) for _ in range(depth)))
        self.head = nn.Linear(width, classes)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """See."""
        x = self.mixers(nn.functional.gelu(self.patches(pixels))).mean((2, 3))
        return self.head(x), nn.functional.normalize(x, dim=-1)


def make() -> nn.Module:
    """Give the module, not yet filled: the checkpoint does that."""
    return Pictures()


if __name__ == "__main__":
    torch.manual_seed(0)
    network = make()
    for name, buffer in network.named_buffers():  # as training leaves them
        if name.endswith("running_var"):
            buffer.uniform_(0.5, 1.5)
    torch.save(network.state_dict(), "pictures.pt")
