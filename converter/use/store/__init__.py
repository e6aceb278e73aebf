"""How are embeddings kept and found again? ArrowEngine's tables of texts, pictures, sounds and what shares a space."""
