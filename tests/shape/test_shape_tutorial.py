"""The tutorial's code runs as it stands, in one go, in an empty folder."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

TUTORIAL = Path(__file__).parents[2] / "docs" / "tutorial.md"


def test_every_block_of_the_tutorial_runs(tmp_path: Path) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", TUTORIAL.read_text(), re.M | re.S)
    assert len(blocks) >= 5
    (tmp_path / "tutorial.py").write_text("\n".join(blocks))
    done = subprocess.run([sys.executable, "tutorial.py"], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "(1,32,4)" in done.stdout and "(3,16,4)" in done.stdout and (tmp_path / "report.html").stat().st_size > 10_000
