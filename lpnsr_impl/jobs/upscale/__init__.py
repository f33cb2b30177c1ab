"""Upscales image files and folders, including metadata, on this machine or on a Ray cluster."""
