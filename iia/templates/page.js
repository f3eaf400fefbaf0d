"use strict";
const all = selector => [...document.querySelectorAll(selector)];
const dialog = document.querySelector("dialog");
let shown = null;

for (const slider of all(".strength"))
  slider.addEventListener("input", () => {
    for (const other of all(".strength")) other.value = slider.value;
    document.documentElement.style.setProperty("--strength", slider.value / 100);
  });

function enlarge(tile) {
  shown = tile;
  dialog.querySelector(".stack").replaceChildren(...[...tile.children].map(image => image.cloneNode()));
  dialog.querySelector("p").textContent = [...tile.children].at(-1).alt;
  if (!dialog.open) dialog.showModal();
}

document.addEventListener("click", event => {
  const tile = event.target.closest(".tile");
  if (tile) enlarge(tile);
  else if (event.target === dialog) dialog.close();
});

dialog.addEventListener("keydown", event => {          // the arrows go to the neighbours
  const step = {ArrowLeft: -1, ArrowRight: 1}[event.key];
  if (!step || event.target.type === "range") return;
  const tiles = all(".tile").filter(tile => tile.offsetParent);
  enlarge(tiles[tiles.indexOf(shown) + step] || shown);
});
