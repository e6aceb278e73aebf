"""What is read beside the tensors: the folder's documents, the hub."""
