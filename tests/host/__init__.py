"""A real ComfyUI for demo, tests and a person's browser: where it comes from, and how to talk to
it."""
