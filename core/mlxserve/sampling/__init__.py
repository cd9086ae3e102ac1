"""From logits to tokens: vectorised over rows, each row by its own parameters alone."""
