"""A real ComfyUI for demo, tests and a person's browser: where from, and how to talk to it."""
