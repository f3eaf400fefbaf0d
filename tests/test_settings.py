"""A script's variables as flags."""

import copy
import os
import runpy
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from iia import settings
from iia.errors import UserError
from iia.settings import commented_variables, from_flags

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = '''"""What it does."""
import sys
# ---------------- settings
model_name = "resnet101"          # the network
steps = 10                        # n, 100 % of them
deep: int | str = "last"          # a number, or "last"
weights_path: str | None = None   # None, or a file
                                  # that holds weights
save = False                      # True writes
operations = ["a", "b"]           # any of a, b
rate = 0.5                        # a share
# ------------------------
uncommented = 3
def main():
    inside = 1                    # no setting
after = 2                         # no setting either
'''


@pytest.fixture
def script(tmp_path):
    path = tmp_path / "script.py"
    path.write_text(SCRIPT)
    names = {}
    exec(compile(SCRIPT, str(path), "exec"), names)
    return names | {"__file__": str(path), "__doc__": "What it does."}


def test_the_commented_variables_of_the_first_block():
    found = commented_variables(SCRIPT)
    assert list(found) == ["model_name", "steps", "deep", "weights_path", "save", "operations", "rate"]
    assert found["weights_path"] == "None, or a file that holds weights"


def test_defaults_are_the_scripts_values(script):
    found = from_flags(script, [])
    assert (found.steps, found.operations, found.weights_path) == (10, ["a", "b"], None)
    assert found.given == frozenset()


def test_a_list_at_the_top_may_be_written_as_its_flag(script):
    assert from_flags(script | {"operations": "IIA, gradcam"}, []).operations == ["iia", "gradcam"]


def test_a_setting_that_was_renamed_is_named(script):
    found = from_flags(script, [])
    with pytest.raises(UserError, match="no setting operation at its top. Did you mean 'operations'?"):
        found.operation
    assert getattr(found, "absent", 7) == 7 and copy.deepcopy(found) == found


@pytest.mark.parametrize("name, value, said", [
    ("model_name", None, "model_name is None at the top"),
    ("operations", ["a", None], "operations is .'a', None. at the top")])
def test_values_at_the_top_that_no_setting_has(name, value, said, script):
    with pytest.raises(UserError, match=said):
        from_flags(script | {name: value}, [])


@pytest.mark.parametrize("flag, name, value", [
    ("--steps=3", "steps", 3), ("--deep=7", "deep", 7), ("--deep=last", "deep", "last"),
    ("--save", "save", True), ("--save=False", "save", False), ("--save=true", "save", True),
    ("--operations=x, y", "operations", ["x", "y"]), ("--operations=IIA", "operations", ["iia"]),
    ("--weights_path=f.pth", "weights_path", "f.pth"), ("--weights_path=None", "weights_path", None),
    ("--weights_path=none", "weights_path", None), ("--weights_path=2024", "weights_path", "2024"),
    ("--model_name=none", "model_name", "none"), ("--model_name=ResNet101", "model_name", "resnet101"),
    ("--deep=Layer3.22", "deep", "Layer3.22"), ("--deep=64,96", "deep", "64,96"),
    ("--rate=2", "rate", 2.0), ("--model_name=a=b", "model_name", "a=b"),
])
def test_flags_have_the_type_of_their_variable(flag, name, value, script):
    found = from_flags(script, [flag])
    assert getattr(found, name) == value and type(getattr(found, name)) is type(value)
    assert found.given == {name}


MORE = """
# ------ settings
operations = ["iia",
              "Gradcam"]      # the rows,
                              # in any case
chosen_dataset = "COCO"       # "coco"
results = "läufer#1"          # umlauts, and a # in the value
bare = 2
# ------
"""


def test_values_over_several_lines_without_comments_and_in_any_case(tmp_path):
    path = tmp_path / "script.py"
    path.write_text(MORE, encoding="utf-8")
    assert commented_variables(MORE) == {"operations": "the rows, in any case", "chosen_dataset": '"coco"',
                                         "results": "umlauts, and a # in the value", "bare": ""}
    found = from_flags(runpy.run_path(str(path)) | {"__file__": str(path)}, ["--bare=3"])
    assert found.values() == {"operations": ["iia", "gradcam"], "chosen_dataset": "coco",
                              "results": "läufer#1", "bare": 3}
    assert found.given == {"bare"}


@pytest.mark.parametrize("script", sorted(path.name for path in ROOT.glob("*.py")))
def test_every_scripts_help_comes_before_torch(script):
    """Each setting has its flag and its comment there; nothing that takes long is imported for it."""
    code = ("import runpy, sys; sys.argv = [sys.argv[1], '--help']\n"
            "try: runpy.run_path(sys.argv[0], run_name='__main__')\n"
            "except SystemExit as end: assert not end.code\n"
            "assert not {'torch', 'timm', 'numpy'} & set(sys.modules)")
    done = subprocess.run([sys.executable, "-c", code, str(ROOT / script)], capture_output=True, text=True,
                          cwd=ROOT, env=os.environ | {"COLUMNS": "200"})       # no word is broken
    assert done.returncode == 0, done.stderr
    shown = " ".join(done.stdout.split())
    comments = commented_variables((ROOT / script).read_text(encoding="utf-8"))
    assert len(comments) > 15 and all(comments.values())
    for name, comment in comments.items():
        assert f"--{name}" in shown and comment in shown
    assert " iia-triple " in shown or script == "reproduce.py"


@pytest.mark.parametrize("flag, said", [
    ("--model_nam=x", "Did you mean 'model_name'"), ("--Steps=3", "Did you mean 'steps'"),
    ("--steps=many", "--steps takes INT"), ("--save=perhaps", "--save takes true.false, not 'perhaps'"),
    ("--weights_path=", "--weights_path takes none.TEXT, not ''"), ("--uncommented=3", "unknown flag"),
    ("stray", "no flag. The values of a list are joined by commas"),
])
def test_mistakes_are_named(flag, said, script):
    with pytest.raises(UserError, match=said):
        from_flags(script, [flag])


def test_names_with_small_letters_are_taken_in_any_case():
    found = from_flags(runpy.run_path(str(ROOT / "reproduce.py")),
                       ["--tables=Pointing", "--networks=VIT-Base"])
    assert found.tables == ["pointing"] and found.networks == ["vit-base"]
    found = from_flags(runpy.run_path(str(ROOT / "explanation_tests_cnn.py")), [
        "--quadrature=Gauss", "--baseline=ZERO", "--protocol=Bee", "--explained_class=Target",
        "--precision=BF16", "--device=CPU", "--model_name=ResNet18"])
    assert (found.quadrature, found.baseline, found.protocol) == ("gauss", "zero", "bee")
    assert (found.explained_class, found.precision, found.device) == ("target", "bf16", "cpu")
    assert found.model_name == "resnet18"


def test_help_lists_every_setting_with_comment_and_value(tmp_path):
    path = tmp_path / "script.py"
    path.write_text(SCRIPT + textwrap.dedent('''
        from iia import settings
        settings.run(lambda found: print(found.steps), globals())
    '''))
    root = __file__.rsplit("/tests/", 1)[0]
    run = lambda *flags: subprocess.run([sys.executable, path, *flags], capture_output=True, text=True,
                                        env={"PYTHONPATH": root})
    shown = " ".join(run("--help").stdout.split())
    assert "What it does." in shown and "n, 100 % of them [10]" in shown and "any of a, b [a,b]" in shown
    assert run("--steps", "4").stdout.strip() == "4"
    wrong = run("--stepss=4")
    assert wrong.returncode == 2 and wrong.stderr.startswith("error: unknown flag")
    assert "Traceback" not in wrong.stderr


def test_what_the_system_says_of_a_file_is_one_line(tmp_path, capsys, monkeypatch):
    script = tmp_path / "script.py"
    script.write_text("")
    monkeypatch.setattr(sys, "argv", ["script.py"])
    with pytest.raises(SystemExit) as end:
        settings.run(lambda found: open(tmp_path / ("long" * 100)), {"__file__": str(script)})
    assert end.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and "cannot be used (" in said and said.count("\n") == 1


def test_ctrl_c_ends_a_script_quietly(tmp_path, capsys, monkeypatch):
    def main(found):
        raise KeyboardInterrupt

    (tmp_path / "script.py").write_text("")
    monkeypatch.setattr(sys, "argv", ["script.py"])
    with pytest.raises(SystemExit) as end:
        settings.run(main, {"__file__": str(tmp_path / "script.py")})
    assert end.value.code == 130 and "stopped" in capsys.readouterr().err


def test_names_that_may_be_given_in_any_case_and_paths_that_may_not():
    names = ("model_name", "fallback_model_name", "definition", "device", "precision", "chosen_dataset",
             "explained_class", "quadrature", "baseline", "protocol", "tables", "networks", "operations")
    for script in ("explanation_tests_cnn.py", "pointing_game_cnn.py", "reproduce.py"):
        own = runpy.run_path(str(ROOT / script))
        for name in commented_variables((ROOT / script).read_text(encoding="utf-8")):
            if isinstance(own[name], (str, list)):
                found = getattr(from_flags(own, [f"--{name}=Ab"]), name)
                small = ["ab"] if isinstance(own[name], list) else "ab"
                assert (found == small) == (name in names), name


@pytest.mark.parametrize("why", [MemoryError("7 TiB"),
                                 RuntimeError("DefaultCPUAllocator: can't allocate memory"),
                                 RuntimeError("a bug")])
def test_too_little_memory_is_one_line_and_other_errors_are_not_hidden(why, tmp_path, capsys, monkeypatch):
    def main(found):
        raise why

    (tmp_path / "script.py").write_text("")
    monkeypatch.setattr(sys, "argv", ["script.py"])
    with pytest.raises(RuntimeError if "bug" in str(why) else SystemExit) as end:
        settings.run(main, {"__file__": str(tmp_path / "script.py")})
    if "bug" not in str(why):
        assert end.value.code == 2 and "image_size" in capsys.readouterr().err
