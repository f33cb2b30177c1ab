"""Image processing: resizing, colours, edges that wrap, masks, sizes, and reading files."""
