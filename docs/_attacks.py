"""Write the tables of attacks.md: ``python docs/_attacks.py``. Every attack is run, which takes a minute."""

import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from attacks.page import PAGE, outcomes, written

if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text("utf-8"), outcomes()), "utf-8")
