"""The public API: protocol buffers, and the code generated from them."""
