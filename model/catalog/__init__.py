"""Know which models there are and check folders against them: families, presets, configurations."""
