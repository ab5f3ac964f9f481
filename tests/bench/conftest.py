"""The benchmark is run from the root of the repository and never installed, so pytest has to be told where it is."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
