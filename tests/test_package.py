"""The package as pip installs it: built, put into a fresh environment, and used from elsewhere."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import iia

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CORE = [Requirement(line) for line in PROJECT["dependencies"]]
EXTRAS = {name: [Requirement(line) for line in lines]
          for name, lines in PROJECT["optional-dependencies"].items()}
MODULES = {"grad-cam": "pytorch_grad_cam", "scikit-learn": "sklearn", "scikit-image": "skimage"}

TOY = """
import sys
import torch, torchvision, timm
others = set(sys.modules)
import iia, iia.bridges
network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1),
                              torch.nn.Flatten(), torch.nn.Linear(4, 5))
maps = iia.explain(network, torch.rand(2, 3, 16, 16), [1, 4], "iia", steps=2)
assert maps.shape == (2, 16, 16) and maps.amax((1, 2)).tolist() == [1, 1]
print(iia.__file__)
from iia.runs import versions
print(versions()["iia"])
print(*sorted({name.partition(".")[0] for name in set(sys.modules) - others}))
sys.modules["captum"] = None                  # as where it is not installed
try:
    iia.explain(network, torch.rand(1, 3, 16, 16), 1, "lift-cam")
except iia.UserError as error:
    print(error)
"""


def run(*command, **how):
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run([str(part) for part in command], env=env, capture_output=True, text=True, **how)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_every_name_of_the_package_is_listed_before_it_is_used(monkeypatch):
    assert callable(iia.explain) and dir(iia).count("explain") == 1
    for name in iia.__all__:
        monkeypatch.delitem(vars(iia), name, raising=False)
    assert {"explain", "wrap", "load_model", "load_pictures", "operations", "predict", "sharing", "UserError",
            "keep_freed_memory"} == set(iia.__all__) <= set(dir(iia))
    assert all(getattr(iia, name).__name__ == name for name in iia.__all__)
    with pytest.raises(AttributeError, match="no attribute 'explains'"):
        iia.explains


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built from a copy: a build leaves folders behind."""
    folder = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    shutil.copytree(ROOT / "iia", folder / "iia", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "iia" / "templates").mkdir(exist_ok=True)
    (folder / "iia" / "templates" / "some.html").write_text("<p>")
    run(sys.executable, "-m", "pip", "wheel", folder, "--no-deps", "--no-build-isolation", "-w", folder)
    return next(folder.glob("*.whl"))


def test_the_wheel_holds_every_file_of_the_package_and_no_other(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    files = {path.relative_to(ROOT).as_posix() for path in (ROOT / "iia").rglob("*")
             if path.is_file() and "__pycache__" not in path.parts}
    assert {name for name in names if ".dist-info/" not in name} == files | {"iia/templates/some.html"}
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_installed_it_explains_from_another_folder_with_the_core_alone(wheel, tmp_path):
    """In a fresh environment that borrows torch and the others from this one, by a line behind its own."""
    run(sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv")
    python = tmp_path / "venv" / "bin" / "python"
    own = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    (own / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheel)
    place, version, modules, *error = run(python, "-c", TOY, cwd=tmp_path).splitlines()
    assert Path(place).parent == own / "iia" and version == PROJECT["version"]
    optional = {each.name for lines in EXTRAS.values() for each in lines} - {"iia"}
    assert not set(modules.split()) & {MODULES.get(name, name) for name in optional}
    assert error == ["lift_cam needs the package captum, which is not installed: pip install captum "
                     "(the extra iia[comparison] has all of them)."]


def test_the_pinned_versions_lie_in_the_ranges():
    lines = (ROOT / "requirements.txt").read_text() + (ROOT / "requirements-dev.txt").read_text()
    pins = dict(re.findall(r"^([\w.-]+)==(\S+)$", lines, re.M))
    ranges = {each.name: each.specifier for each in [*CORE, *sum(EXTRAS.values(), [])]}
    wrong = {name: pin for name, pin in pins.items() if name in ranges and pin not in ranges[name]}
    assert not wrong and len(set(pins) & set(ranges)) > 10
