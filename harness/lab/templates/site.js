// Search and keys.  Nothing is fetched: the index is a script of this site, loaded when asked for.
"use strict";
(() => {
  const root = document.documentElement.dataset.root;
  const input = document.querySelector("#search input");
  const list = document.querySelector("#found");
  const MOST = 40;
  let chosen = -1;
  let asked = false;

  function load() {
    if (asked) return;
    asked = true;
    const script = document.createElement("script");
    script.src = root + "search.js";
    script.addEventListener("load", show);
    document.head.append(script);
  }

  function show() {
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    list.replaceChildren();
    chosen = -1;
    if (!words.length || !window.LAB_INDEX) return;
    let more = 0;
    for (const [sort, text, page] of window.LAB_INDEX) {
      const low = text.toLowerCase();
      if (!words.every((word) => low.includes(word))) continue;
      if (list.children.length >= MOST) { more += 1; continue; }
      const item = document.createElement("li");
      const kind = document.createElement("span");
      const link = document.createElement("a");
      kind.textContent = sort;
      link.textContent = text;
      link.href = root + page;
      item.append(kind, " ", link);
      list.append(item);
    }
    if (more || !list.children.length) {
      const item = document.createElement("li");
      item.className = "dim";
      item.textContent = more ? `and ${more} more` : "nothing found";
      list.append(item);
    }
  }

  function choose(step) {
    const links = list.querySelectorAll("a");
    if (!links.length) return;
    chosen = (chosen + step + links.length) % links.length;
    links.forEach((link, n) => link.parentElement.setAttribute("aria-selected", n === chosen));
    links[chosen].parentElement.scrollIntoView({ block: "nearest" });
  }

  input.addEventListener("focus", load);
  input.addEventListener("input", () => { load(); show(); });
  input.addEventListener("keydown", (event) => {
    if (event.key === "ArrowDown") choose(1);
    else if (event.key === "ArrowUp") choose(-1);
    else if (event.key === "Enter") list.querySelectorAll("a")[Math.max(chosen, 0)]?.click();
    else if (event.key === "Escape") { input.value = ""; show(); input.blur(); }
    else return;
    event.preventDefault();
  });

  // j and k go through what there is to look at, / searches, u goes up.
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target === input) return;
    if (event.key === "/") { input.focus(); event.preventDefault(); }
    else if (event.key === "u") document.querySelector("a.home").click();
    else if (event.key === "j" || event.key === "k") {
      const items = [...document.querySelectorAll("[data-item]")].filter((a) => a.offsetParent);
      if (!items.length) return;
      const at = items.indexOf(document.activeElement);
      const next = event.key === "j" ? Math.min(at + 1, items.length - 1) : Math.max(at - 1, 0);
      items[next].focus();
      items[next].scrollIntoView({ block: "nearest" });
    }
  });

  // Of a cell of the matrix: which test on which target.
  document.querySelector(".matrix")?.addEventListener("mouseover", (event) => {
    const cell = event.target.closest("td");
    if (!cell || cell.title) return;
    const test = cell.parentElement.cells[0].textContent.trim();
    const heads = cell.closest("table").tHead.rows[0].cells;
    cell.title = `${test} on ${heads[cell.cellIndex].textContent.trim()}`;
  });
})();
