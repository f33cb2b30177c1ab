"""Upscales image files and folders, keeping their metadata, on this machine or on a Ray cluster."""
