"""Arguments of operations other than tensors."""
