import pathlib
import re
import subprocess
import sys

import pytest

import igpt_keras

README = pathlib.Path(__file__).parent.parent / "README.md"


@pytest.mark.slow
def test_the_python_of_the_readme_runs_as_it_stands(tmp_path):
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 5
    assert len([line for line in blocks[0].splitlines() if line and "import" not in line]) <= 20
    script = tmp_path / "script.py"
    script.write_text("\n".join(blocks), encoding="utf-8")
    result = subprocess.run(
        [sys.executable, script], cwd=tmp_path, capture_output=True, text=True, timeout=500
    )
    assert result.returncode == 0, result.stderr
    assert "(8, 6, 8, 8, 3)" in result.stdout
    assert igpt_keras.load(tmp_path / "digits-model").count_params() == 203_392
    assert (tmp_path / "served" / "1" / "saved_model.pb").is_file()
