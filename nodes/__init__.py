"""ComfyUI nodes: schemas and short executes. Their work is in `stages`."""
