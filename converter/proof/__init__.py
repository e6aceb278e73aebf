"""What is held against what: documents, weights, programs. Needs neither the checkpoint nor PyTorch."""
