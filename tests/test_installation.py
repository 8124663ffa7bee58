"""What an installed copy holds beside its modules."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_a_wheel_has_the_templates_and_the_page(tmp_path):
    """Of a copy, since setuptools writes beside setup.py."""
    copy, installed = tmp_path / "copy", tmp_path / "installed"
    shutil.copytree(ROOT / "owl_jax", copy / "owl_jax")
    for name in ("setup.py", "pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, copy / name)
    command = [sys.executable, "-m", "pip", "wheel", "--no-index", "--no-deps"]
    command += ["--no-build-isolation", "--wheel-dir", str(tmp_path), str(copy)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(installed)
    templates = sorted(path.relative_to(ROOT) for path in (ROOT / "owl_jax").rglob("*.html"))
    assert len(templates) >= 5
    assert sorted(path.relative_to(installed) for path in installed.rglob("*.html")) == templates
    page = "owl_jax/serving/static"
    found, expected = ({path.name for path in (at / page).iterdir()} for at in (installed, ROOT))
    assert found == expected and {"index.html", "main.js", "style.css", "owl.svg"} <= found
