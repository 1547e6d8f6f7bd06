"use strict";
// Theme and sortable tables. Nothing is loaded, nothing is sent.

(() => {
  const root = document.documentElement;
  const remembered = () => { try { return localStorage.getItem("clipgap-theme"); } catch { return null; } };
  const remember = (theme) => { try { localStorage.setItem("clipgap-theme", theme); } catch { /* private */ } };
  if (remembered()) root.dataset.theme = remembered();

  const isDark = () => root.dataset.theme
    ? root.dataset.theme === "dark"
    : matchMedia("(prefers-color-scheme: dark)").matches;

  const sortBy = (head, column) => {
    const body = head.closest("table").tBodies[0];
    const rising = head.getAttribute("aria-sort") !== (head.classList.contains("text") ? "ascending" : "descending");
    const direction = head.classList.contains("text") === rising ? 1 : -1;
    const key = (row) => row.cells[column].dataset.sort;
    const compare = (a, b) => {
      if (a === "" || b === "") return (a === "") - (b === ""); // what is missing comes last
      return direction * (head.classList.contains("text") ? a.localeCompare(b, "en", { numeric: true }) : a - b);
    };
    const rows = [...body.rows].sort((a, b) => compare(key(a), key(b)));
    body.append(...rows);
    for (const other of head.parentElement.cells) other.setAttribute("aria-sort", "none");
    head.setAttribute("aria-sort", direction > 0 ? "ascending" : "descending");
  };

  document.addEventListener("DOMContentLoaded", () => {
    document.getElementById("theme").addEventListener("click", () => {
      root.dataset.theme = isDark() ? "light" : "dark";
      remember(root.dataset.theme);
    });
    for (const table of document.querySelectorAll("table.sortable")) {
      [...table.tHead.rows[0].cells].forEach((head, column) => {
        head.querySelector("button").addEventListener("click", () => sortBy(head, column));
      });
    }
  });
})();
