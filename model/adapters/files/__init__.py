"""Read what adapter files say, and check it against a model, by their headers alone. Needs no torch."""
