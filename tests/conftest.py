"""Found by pytest before any test: puts this folder on the path, so that tests/faults can use the same phantoms."""

import os

# The test processes share the cores: more threads in each would only wait for one another.
os.environ.setdefault("OMP_NUM_THREADS", "1")
