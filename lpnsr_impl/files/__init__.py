"""Model files: loading, the released files, downloads, conversion, and the report of the doctor."""
