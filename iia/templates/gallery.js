const rows = all("tbody tr"), header = document.querySelector("header");
const [filter, sort, operation, reverse, count] =
  ["filter", "sort", "operation", "reverse", "count"].map(id => document.getElementById(id));
const cells = all("td[data-figures]").map(cell => [cell.querySelector("small"), JSON.parse(cell.dataset.figures)]);
const notes = cells.map(([caption]) => caption.textContent);

new ResizeObserver(() =>
  document.documentElement.style.setProperty("--head", `${header.offsetHeight}px`)).observe(header);

const collator = new Intl.Collator("en", {numeric: true});

function figure(row) {                                   // what a row is sorted by: a metric of the chosen operation
  const cell = row.cells[operation.selectedIndex + 1];
  return JSON.parse(cell.dataset.figures || "{}")[sort.value];
}

function arrange() {
  const better = sort.selectedOptions[0].dataset.better, sign = reverse.checked ? -1 : 1;
  const keys = new Map(rows.map(row => [row, better ? figure(row) : row.dataset[sort.value]]));
  const compare = (a, b) => better ? (better === "lower" ? a - b : b - a) : collator.compare(a, b);
  const missing = row => keys.get(row) === undefined;     // those come last
  const order = [...rows].sort((a, b) =>
    missing(a) - missing(b) || (missing(a) ? 0 : sign * compare(keys.get(a), keys.get(b))));
  if (operation) operation.disabled = !better;
  document.querySelector("tbody").append(...order);
  cells.forEach(([caption, figures], k) => {
    const value = figures[sort.value];
    caption.textContent = [notes[k], value === undefined ? "" : `${sort.value} ${Number(value.toPrecision(4))}`].join(" ").trim();
  });
}

function choose() {
  const words = filter.value.toLowerCase().trim();
  for (const row of rows)
    row.hidden = !["class", "picture", "network"].some(name => row.dataset[name].toLowerCase().includes(words));
  count.textContent = `${rows.filter(row => !row.hidden).length} of ${rows.length} rows`;
}

for (const control of [sort, operation, reverse]) control?.addEventListener("change", arrange);
filter.addEventListener("input", choose);
