import sys
from pathlib import Path

import pytest
import torch

for folder in ("host", ""):
    sys.path.insert(0, str(Path(__file__).parent / folder))


@pytest.fixture(autouse=True)
def _seeded():
    """Every test starts from the same random state and one thread's worth of noise."""
    torch.manual_seed(0)
