"""What a user is told: names that are near, libraries that are missing, and reasons in a line."""

import sys

import pytest
import torch

from iia.errors import UserError, did_you_mean, first_line, needed, rephrased
from iia.methods import Operation


@pytest.fixture
def library(tmp_path, monkeypatch):
    """A library that is installed, and needs one that is not."""
    (tmp_path / "of_a_test.py").write_text("import not_installed\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield "of_a_test"
    sys.modules.pop("of_a_test", None)


def test_a_library_that_is_missing_is_named_with_its_package_and_extra():
    with pytest.raises(UserError) as why:
        needed("not_installed.part", "the test", "comparison", "not-installed")
    assert str(why.value) == ("the test needs the package not-installed, which is not installed: pip install "
                              "not-installed (the extra iia[comparison] has all of them).")


def test_what_an_installed_library_lacks_itself_is_not_said_of_the_library(library):
    with pytest.raises(ModuleNotFoundError, match="not_installed"):
        needed(library, "the test", "comparison")


def test_a_defect_of_a_method_is_not_taken_for_a_missing_library(library, monkeypatch):
    monkeypatch.setitem(sys.modules, "iia.of_a_test", None)
    with pytest.raises(ModuleNotFoundError):
        Operation("of_a_test.method", "a test's", "none").under("paper")


def test_the_nearest_name_is_shown_as_it_is_written():
    assert did_you_mean("LAYER3", ["Layer3", "fc"]) == " Did you mean 'Layer3'?"
    assert did_you_mean("something", ["Layer3", "fc"]) == ""


def test_reasons_are_one_short_line():
    assert first_line(ValueError("one.\ntwo")) == "one" and first_line(ValueError()) == "ValueError"
    assert len(first_line(ValueError("x" * 999))) == 150
    with pytest.raises(UserError, match=r"^it failed \(KeyError: 'a'\); try b$"), \
            rephrased("it failed", "; try b"):
        {}["a"]
    with pytest.raises(UserError, match="^as it is$"), rephrased("it failed"):
        raise UserError("as it is")


@pytest.mark.parametrize("why", [MemoryError("7 TiB"), RuntimeError("[enforce fail] can't allocate memory"),
                                 torch.OutOfMemoryError("CUDA out of memory")])
def test_a_lack_of_memory_is_not_taken_for_a_broken_file(why):
    with pytest.raises(type(why)), rephrased("it is broken"):
        raise why
