"""Image processing: resizing, colours, periodic edges, masks, output sizes, and reading files."""
