"""One denoising step over the ranks of a gang: tokens, heads, experts and guidance branches shared among them."""
