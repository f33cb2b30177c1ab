"""Model files: formats, the released files, downloads, conversion and the doctor's report."""
