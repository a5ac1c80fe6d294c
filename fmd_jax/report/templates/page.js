"use strict";
// Tables that sort by a click on a heading.
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      // Numbers from the largest, words from A; a second click turns the order.
      const numeric = head.classList.contains("num") && column > 0;
      const before = head.getAttribute("aria-sort");
      const first = numeric ? "descending" : "ascending";
      const other = numeric ? "ascending" : "descending";
      const order = before === first ? other : first;
      for (const one of heads) one.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", order);
      const value = (row) => {
        const text = row.cells[column].dataset.sort;
        return head.classList.contains("num") ? Number(text) : text;
      };
      const rows = [...body.rows].map((row) => [value(row), row]);
      const compare = (a, b) => typeof a === "string" ? a.localeCompare(b) : a - b;
      rows.sort(([a], [b]) => compare(a, b) * (order === "ascending" ? 1 : -1));
      body.append(...rows.map(([, row]) => row));
    });
  });
}

// Light, dark, or auto: as the system is; remembered where the browser allows it.
(() => {
  const names = ["auto", "dark", "light"];
  const button = document.getElementById("theme");
  const show = (name) => {
    if (name === names[0]) delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = name;
    button.textContent = `Theme: ${name}`;
  };
  let at = 0;
  try {
    at = Math.max(0, names.indexOf(localStorage.getItem("fmd-theme")));
  } catch { /* no storage for files: the choice lasts as long as the page */ }
  show(names[at]);
  button.hidden = false;
  button.addEventListener("click", () => {
    at = (at + 1) % names.length;
    show(names[at]);
    try {
      localStorage.setItem("fmd-theme", names[at]);
    } catch { /* as above */ }
  });
})();
