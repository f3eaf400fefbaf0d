"""How big the house is: each folder's lines of code, without comments and docstrings, and what's too long."""

import ast
import io
import tokenize
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WIDEST, LONGEST = 110, 250                # characters of a line, lines of a file
NO_CODE = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT,
           tokenize.ENDMARKER}


def lines_of_code(source: str) -> int:
    """How many lines hold code."""
    lines = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in NO_CODE:
            lines |= set(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(source)):
        documented = isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef))
        if documented and ast.get_docstring(node) is not None:
            lines -= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    return len(lines)


def too_long(path: Path) -> list[str]:
    """What is wrong with a file: its length, or that of a line."""
    lines = path.read_text(encoding="utf-8").splitlines()
    found = [f"{path.relative_to(ROOT)} has {len(lines)} lines"] * (len(lines) > LONGEST)
    return found + [f"{path.relative_to(ROOT)}:{number} has {len(line)} characters"
                    for number, line in enumerate(lines, 1) if len(line) > WIDEST]


if __name__ == "__main__":
    code, complaints = Counter(), []
    for path in sorted(ROOT.rglob("*.py")):
        place = path.relative_to(ROOT).parent
        code["scripts" if place == Path() else str(place)] += lines_of_code(path.read_text(encoding="utf-8"))
        complaints += too_long(path)
    for folder, lines in code.items():
        print(f"{lines:6} {folder}")
    whole = sum(lines for folder, lines in code.items() if folder.startswith("iia"))
    print(f"{whole:6} of iia in all", *complaints, sep="\n")
