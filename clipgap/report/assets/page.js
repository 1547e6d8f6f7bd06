"use strict";
// Theme, sortable tables, and how the pages load their data and thumbnails. Nothing is sent.

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

  // Browsers let a page from disk load scripts but not data, so each file calls `clipgapData`. In a
  // report of one file the data stand in the page.
  const KEPT_FILES = 40; // data files held in memory
  const loaded = new Map(); // file -> promise of its data
  const waiting = new Map(); // file -> resolve
  window.clipgapData = (file, data) => {
    waiting.get(file)?.(data);
    waiting.delete(file);
    for (const old of loaded.keys()) {
      if (loaded.size <= KEPT_FILES) break;
      if (!waiting.has(old)) loaded.delete(old);
    }
  };
  const load = (file) => {
    if (!loaded.has(file)) {
      const inlined = document.getElementById(file);
      loaded.set(file, inlined ? Promise.resolve(JSON.parse(inlined.textContent)) : new Promise((resolve, reject) => {
        waiting.set(file, resolve);
        const script = document.createElement("script");
        script.src = file;
        script.onload = () => script.remove();
        script.onerror = () => { script.remove(); loaded.delete(file); reject(new Error(file)); };
        document.head.append(script);
      }));
    }
    return loaded.get(file);
  };

  const element = (tag, classes, text) => {
    const made = document.createElement(tag);
    if (classes) made.className = classes;
    if (text !== undefined) made.textContent = text;
    return made;
  };

  // The thumbnail of this number, from its pack of so many; in its place the key, if there is none.
  const picture = (number, key, pack) => {
    const missing = element("span", "missing");
    missing.append(element("bdi", "", key));
    if (number === null || number === undefined) return missing;
    const image = element("img");
    image.loading = "lazy";
    image.decoding = "async";
    image.alt = key;
    image.onerror = () => image.replaceWith(missing);
    load(`thumbs/${String(Math.floor(number / pack)).padStart(4, "0")}.js`)
      .then((found) => { image.src = found[number % pack]; })
      .catch(image.onerror);
    return image;
  };

  // Only what the web serves becomes a link, whatever strangers wrote.
  const isWeb = (url) => {
    try { return ["http:", "https:"].includes(new URL(url).protocol); } catch { return false; }
  };

  // Hands rows of values to the reader as a CSV file.
  const saveTable = (name, columns, rows) => {
    const cell = (value) => `"${String(value ?? "").replaceAll('"', '""')}"`;
    const lines = rows.map((row) => row.map(cell).join(","));
    const link = element("a");
    link.href = URL.createObjectURL(new Blob([[columns, ...lines, ""].join("\n")], { type: "text/csv" }));
    link.download = name;
    link.click();
    URL.revokeObjectURL(link.href);
  };

  // A report of one file has all views in it and shows one; the address begins with its name.
  const views = () => [...document.querySelectorAll(".view")];
  const isSingle = () => views().length > 1;
  const isShown = (name) => !document.getElementById(name).hidden;
  const begins = new Map(); // view -> what to do when it is first shown
  const show = () => {
    const wanted = location.hash.slice(1).split("&")[0];
    const shown = views().find((view) => view.id === wanted) ?? views()[0];
    for (const view of views()) view.hidden = view !== shown;
    document.body.classList.toggle("wide", shown.classList.contains("wide"));
    for (const link of document.querySelectorAll(".bar nav a")) {
      const [name, kind] = [link.hash.slice(1), shown.id.replace(/-.*/, "-")];
      if (name === shown.id || (kind === "split-" && name.startsWith(kind))) link.setAttribute("aria-current", "page");
      else link.removeAttribute("aria-current");
    }
    scrollTo(0, 0);
    begins.get(shown.id)?.();
    begins.delete(shown.id);
  };

  window.clipgap = {
    load,
    element,
    picture,
    isWeb,
    saveTable,
    isShown,
    begin: (name, act) => {
      begins.set(name, act);
      if (!isSingle()) begins.get(name)();
    },
    address: () => new URLSearchParams(location.hash.slice(1)),
    remember: (name, state) => {
      if (isShown(name)) history.replaceState(null, "", `#${isSingle() ? `${name}&` : ""}${state}`);
    },
  };

  const ready = () => {
    document.getElementById("theme").addEventListener("click", () => {
      root.dataset.theme = isDark() ? "light" : "dark";
      remember(root.dataset.theme);
    });
    for (const table of document.querySelectorAll("table.sortable")) {
      [...table.tHead.rows[0].cells].forEach((head, column) => {
        head.querySelector("button").addEventListener("click", () => sortBy(head, column));
      });
    }
    if (isSingle()) show();
  };
  // Before whoever else listens: who is not shown any more has nothing to say of the address.
  window.addEventListener("hashchange", () => { if (isSingle()) show(); });
  document.addEventListener("DOMContentLoaded", ready);
})();
