"""ComfyUI nodes. Code that several nodes share is in `stages`."""
