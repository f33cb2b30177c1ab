"""ComfyUI nodes. `stages` contains the code that they share."""
