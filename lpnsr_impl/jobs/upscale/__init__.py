"""Upscales files and folders: pictures with all that surrounds their pixels, here or on Ray."""
