"""One table and one page from what was measured of several methods."""
