"""One denoising step over the ranks of a gang: tokens, heads, experts and guidance branches split among them."""
