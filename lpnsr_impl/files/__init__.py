"""Files with weights: formats, released ones, downloads, conversion, the Doctor."""
