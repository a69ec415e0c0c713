"""What runs in environments of other projects: each file by itself, with nothing of ours."""
