"""Pictures: resizing, colours, edges that wrap, masks, sizes and tiles."""
