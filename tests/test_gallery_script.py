"""How the gallery's script sorts and filters rows, in node, without a browser."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[1] / "iia" / "templates" / "gallery.js"
PAGE = """
const given = JSON.parse(process.argv[1]);
const listening = () => ({addEventListener(_, react) { this.react = react; }});
const lines = given.rows.map(own => ({dataset: own, hidden: false, cells: [{dataset: {}},
  ...own.figures.map(figures => ({dataset: {figures: JSON.stringify(figures)}, small: {textContent: ""},
                                  querySelector() { return this.small; }}))]}));
const controls = {filter: {...listening(), value: given.filter}, count: {},
  sort: {...listening(), value: given.sort, selectedOptions: [{dataset: {better: given.better}}]},
  operation: {...listening(), selectedIndex: given.operation},
  reverse: {...listening(), checked: given.reverse}};
let order = lines;
globalThis.ResizeObserver = class { observe() {} };
globalThis.document = {getElementById: id => controls[id], documentElement: {style: {setProperty() {}}},
  querySelector: what => what === "tbody" ? {append(...sorted) { order = sorted; }} : {}};
const all = what => what === "tbody tr" ? lines : lines.flatMap(row => row.cells.slice(1));
"""
REACT = """
controls.sort.react();
controls.filter.react();
console.log(JSON.stringify({count: controls.count.textContent, disabled: controls.operation.disabled,
  rows: order.filter(row => !row.hidden).map(row => row.dataset.picture),
  said: order.map(row => row.cells[1].small.textContent)}));
"""
ROWS = [("a.png", "class 10", "toy", 3.0, 1.0), ("b.png", "class 2", "toy", 1.0, 2.0),
        ("c.png", "class 2", "other", None, 3.0), ("d.png", "class 1", "toy", 2.0, None)]

pytestmark = pytest.mark.skipif(not shutil.which("node"), reason="node is not installed")


def shown(sort="picture", better=None, operation=0, reverse=False, words=""):
    rows = [{"picture": name, "class": label, "network": network,
             "figures": [{} if value is None else {"POS": value} for value in values]}
            for name, label, network, *values in ROWS]
    given = {"rows": rows, "sort": sort, "operation": operation, "reverse": reverse, "filter": words}
    given |= {"better": better} if better else {}
    done = subprocess.run(["node", "-e", PAGE + SCRIPT.read_text() + REACT, json.dumps(given)],
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("how, order", [
    ({}, "abcd"), ({"reverse": True}, "dcba"), ({"sort": "class"}, "dbca"),               # 2 before 10
    ({"sort": "POS", "better": "lower"}, "bdac"), ({"sort": "POS", "better": "higher"}, "adbc"),
    ({"sort": "POS", "better": "lower", "reverse": True}, "adbc"),                        # missing ones last
    ({"sort": "POS", "better": "higher", "operation": 1}, "cbad")])
def test_rows_are_sorted_the_best_first(how, order):
    found = shown(**how)
    assert [name[0] for name in found["rows"]] == list(order) and found["disabled"] == ("better" not in how)
    if how.get("sort") == "POS":
        assert {*found["said"]} == {"POS 3", "POS 1", "POS 2", ""}


@pytest.mark.parametrize("words, order", [(" CLASS 2", "bc"), ("other", "c"), ("d.p", "d"), ("nothing", "")])
def test_rows_are_filtered_by_class_picture_or_network(words, order):
    found = shown(words=words)
    assert [name[0] for name in found["rows"]] == list(order)
    assert found["count"] == f"{len(order)} of 4 rows"
