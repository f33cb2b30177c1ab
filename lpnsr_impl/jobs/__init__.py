"""Jobs of the command line: upscaling, training, evaluation and degradation."""
