"""The public API: protocol buffers, and the code generated from them."""

# The kinds of task that can be submitted so far; the others need uploads.
API_TASKS = ("text_to_video",)
