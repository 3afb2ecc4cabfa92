"""What runs a packed model, from file to tokens to answers: NumPy and tokenizers, no PyTorch."""
