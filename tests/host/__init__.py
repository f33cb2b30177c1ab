"""Install, start and operate a real ComfyUI, for tests, the demo and manual use."""
