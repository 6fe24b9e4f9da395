"""Found by pytest before any test: puts this folder on the path, so that tests/faults can use the same phantoms."""
