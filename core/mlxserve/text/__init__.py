"""Text to tokens and back: the model's tokenizer, streaming text, stop strings."""
