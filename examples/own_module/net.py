"""A small network of one's own: sentences as bags of words in order, by a convolution and a gated pooling."""

import torch
from torch import Tensor, nn


class Sentences(nn.Module):
    """Ids and mask, (rows, words) -> vectors of length 1, (rows, width)."""

    def __init__(self, words: int = 1000, width: int = 32, longest: int = 64):
        super().__init__()
        self.words = nn.Embedding(words, width)
        self.places = nn.Embedding(longest, width)
        self.mix = nn.Conv1d(width, 2 * width, kernel_size=3, padding=1)
        self.norm = nn.LayerNorm(width)
        self.gate = nn.Linear(width, 1)

    def forward(self, ids: Tensor, mask: Tensor) -> dict[str, Tensor]:
        """Embed."""
        x = self.words(ids) + self.places(torch.arange(ids.shape[1]))
        x = x * mask[..., None]
        x = self.norm(x + nn.functional.glu(self.mix(x.transpose(1, 2)), dim=1).transpose(1, 2))
        weights = self.gate(x).squeeze(-1).masked_fill(mask == 0, -1e9).softmax(-1)
        return {"embeddings": nn.functional.normalize(torch.einsum("rw,rwd->rd", weights, x), dim=-1)}


def make() -> nn.Module:
    """Give the module, not yet filled: the checkpoint does that."""
    return Sentences()


if __name__ == "__main__":
    torch.manual_seed(0)
    torch.save(make().state_dict(), "sentences.pt")
