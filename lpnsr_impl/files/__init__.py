"""Model files: loading, conversion, the released files, downloads, and LPNSR Doctor's report."""
