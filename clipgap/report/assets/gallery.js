"use strict";
// The gallery: only the points of one page are in the document, and only data files that hold one
// of them are loaded. All text comes in as textContent, never as markup.

(() => {
  const { load, element } = clipgap;
  const PER_PAGE = 8;
  const state = { about: null, set: 0, index: null, shown: [], page: 0, focus: 0, turn: 0 };
  const LINKED = ["label", "low", "high", "find", "order"]; // fields that an address tells as they are
  const $ = (id) => document.getElementById(id);

  const options = (select, entries) => {
    select.replaceChildren(...entries.map(([value, text]) => {
      const option = element("option", "", text);
      option.value = value;
      return option;
    }));
  };

  const about = () => state.about.sets[state.set];
  const count = (n) => n.toLocaleString("en");
  const score = (s) => (s === null || s === undefined ? "–" : s.toFixed(3));
  const className = (label) => about().classes[label] ?? `class ${label}`;

  const start = (data) => {
    state.about = data;
    options($("set"), data.sets.map((set, n) => [n, `${set.name} (${count(set.points)})`]));
    restore();
  };

  // Every state has an address: what is shown can be sent to somebody.
  const restore = () => {
    const wanted = clipgap.address();
    const named = state.about.sets.findIndex((set) => set.name === wanted.get("set"));
    $("set").value = named < 0 ? state.about.opens : named;
    for (const id of LINKED) $(id).value = id === "order" ? "falling" : "";
    choose(wanted);
  };

  const address = () => {
    const link = new URLSearchParams({ set: about().name });
    for (const id of LINKED) if ($(id).value && $(id).value !== "falling") link.set(id, $(id).value);
    if (Number($("split").value)) link.set("split", about().splits[$("split").value]);
    if ($("moved").checked) link.set("moved", "1");
    if (state.page) link.set("page", state.page + 1);
    clipgap.remember("gallery", link);
  };

  const choose = async (wanted = new URLSearchParams()) => {
    state.set = Number($("set").value);
    state.index = await load(`data/${state.set}/index.js`);
    const labels = [...new Set(state.index.label ?? [])].filter((label) => label >= 0).sort((a, b) => a - b);
    options($("label"), [["", "all"], ...labels.map((label) => [label, className(label)])]);
    options($("split"), about().splits.map((name, n) => [n, name]));
    for (const id of LINKED) if (wanted.has(id)) $(id).value = wanted.get(id);
    if ($("order").selectedIndex < 0) $("order").value = "falling";
    if ($("label").selectedIndex < 0) $("label").value = "";
    $("split").value = Math.max(0, about().splits.indexOf(wanted.get("split")));
    $("moved").checked = wanted.get("moved") === "1" && about().splits.length > 0;
    const has = {
      label: labels.length > 0,
      split: about().splits.length > 0,
      threshold: state.index.threshold.some((value) => value !== null),
    };
    for (const part of document.querySelectorAll("[data-needs]")) part.hidden = !has[part.dataset.needs];
    filter(Number(wanted.get("page") ?? 1) - 1 || 0);
  };

  const number = (id) => ($(id).value === "" ? null : Number($(id).value));

  const filter = async (page = 0) => {
    const turn = ++state.turn;
    const { similarity, threshold, label, moved } = state.index;
    const [low, high] = [number("low"), number("high")];
    const wanted = $("label").value === "" ? null : Number($("label").value);
    const flags = $("moved").checked ? moved[Number($("split").value)] : null;
    let shown = [];
    for (let i = 0; i < similarity.length; i++) {
      const s = similarity[i];
      if (low !== null && !(s !== null && s >= low)) continue;
      if (high !== null && !(s !== null && s <= high)) continue;
      if (wanted !== null && label[i] !== wanted) continue;
      if (flags !== null && flags[i] !== "1") continue;
      shown.push(i);
    }
    const text = $("find").value.trim().toLowerCase();
    if (text) shown = await having(text, shown, turn);
    if (shown === null) return;
    if ($("order").value === "rising") shown.reverse();
    if ($("order").value === "gap") {
      const above = (i) => (threshold[i] === null || similarity[i] === null ? -Infinity : similarity[i] - threshold[i]);
      shown.sort((a, b) => above(b) - above(a) || a - b);
    }
    state.shown = shown;
    turnTo(page);
  };

  // Points whose key, or a neighbour's key or caption, holds the text; null if overtaken. Keys and
  // captions stand in the data of the points alone, which are gone through file by file.
  const having = async (text, places, turn) => {
    const found = [];
    for (const [n, place] of places.entries()) {
      const [, key, , , near, , , reference] = await point(place);
      if (turn !== state.turn) return null;
      if (n % state.about.page === 0) $("status").textContent = `searching, ${Math.floor((100 * n) / places.length)} %`;
      const words = [[key], ...near, ...reference].flatMap(([name, , , caption]) => [name, caption]);
      if (words.some((word) => word?.toLowerCase().includes(text))) found.push(place);
    }
    return found;
  };

  const pages = () => Math.max(1, Math.ceil(state.shown.length / PER_PAGE));
  const onPage = (page) => state.shown.slice(page * PER_PAGE, (page + 1) * PER_PAGE);

  const point = async (place) => {
    const file = Math.floor(place / state.about.page);
    return (await load(`data/${state.set}/${String(file).padStart(4, "0")}.js`))[place % state.about.page];
  };

  const turnTo = async (page) => {
    const turn = ++state.turn; // a later turn overtakes this one
    if (!Number.isFinite(page)) page = 0;
    state.page = Math.min(Math.max(0, page), pages() - 1);
    const places = onPage(state.page);
    const points = await Promise.all(places.map(point));
    if (turn !== state.turn) return;
    $("points").replaceChildren(...points.map((data, n) => card(places[n], data)));
    if (!points.length) $("points").append(element("p", "note", "No test point meets these conditions."));
    const all = state.index.similarity.length;
    $("status").textContent = state.shown.length === all
      ? `${count(all)} test points`
      : `${count(state.shown.length)} of ${count(all)} test points`;
    $("place").textContent = `${count(state.page + 1)} / ${count(pages())}`;
    $("first").disabled = $("previous").disabled = state.page === 0;
    $("next").disabled = $("last").disabled = state.page === pages() - 1;
    state.focus = 0;
    address();
    told();
    document.body.dataset.turned = String(turn);
    onPage(state.page + 1).forEach((place) => point(place).catch(() => {})); // what comes next
  };

  const picture = (number, key) => clipgap.picture(number, key, state.about.pack);

  const neighbour = ([key, similarity, file, caption, url], copies, test) => {
    const made = element("figure", "neighbour");
    const look = element("button", "look");
    look.type = "button";
    look.setAttribute("aria-label", `Enlarge ${key}`);
    look.append(picture(file, key));
    look.addEventListener("click", () => enlarge([[test.file, test.name], [file, key, caption, similarity]]));
    made.append(look);
    if (copies > 1) made.append(element("span", "copies", `×${copies}`));
    const line = element("figcaption");
    line.append(element("b", "", score(similarity)));
    if (caption) line.append(element("bdi", "caption", caption));
    made.append(line);
    made.title = caption ? `${key}\n${caption}` : key;
    if (url && clipgap.isWeb(url)) {
      const link = element("a", "source", "↗");
      link.href = url;
      link.rel = "noopener noreferrer nofollow";
      link.title = url;
      line.append(link);
    }
    return made;
  };

  const enlarge = (pictures) => {
    $("enlarged").replaceChildren(...pictures.map(([file, key, caption, similarity]) => {
      const made = element("figure");
      const line = element("figcaption");
      if (similarity !== undefined) line.append(element("b", "", `${score(similarity)} `));
      line.append(element("bdi", "id", key));
      if (caption) line.append(element("bdi", "words", caption));
      made.append(picture(file, key), line);
      return made;
    }));
    $("large").showModal();
  };

  // `left` is what a split leaves of the list; what is not in it is marked as removed.
  const strip = (name, colour, neighbours, list, test, { empty, short, left = list, reviewed = false }) => {
    const row = element("div", "strip");
    const title = element("h2", `s${colour}`);
    title.append(element("bdi", "", name));
    const box = element("div", "neighbours");
    const stays = new Set(left.filter((_, i) => i % 2 === 0));
    for (let i = 0; i < list.length; i += 2) {
      const made = neighbour(neighbours[list[i]], list[i + 1], test);
      if (!stays.has(list[i])) {
        made.classList.add("gone");
        made.append(element("span", "mark", "removed"));
      }
      if (reviewed) made.dataset.key = neighbours[list[i]][0];
      box.append(made);
    }
    if (!list.length) box.append(element("p", "note", empty));
    else if (list.length < 2 * state.about.most) box.append(element("p", "note", short));
    row.append(title, box);
    return row;
  };

  // What the reader decides of training rows, kept by the browser until it is forgotten.
  const remembered = `clipgap-review ${location.pathname}`;
  const decisions = new Map((() => {
    try { return JSON.parse(localStorage.getItem(remembered)) ?? []; } catch { return []; }
  })());

  const mark = (made) => {
    made.querySelector(".decision")?.remove();
    const decision = decisions.get(made.dataset.key);
    if (decision) made.append(element("span", `decision ${decision}`, decision === "drop" ? "✗ drop" : "✓ keep"));
  };

  const told = () => {
    const dropped = [...decisions.values()].filter((decision) => decision === "drop").length;
    $("review").hidden = !decisions.size;
    $("decided").textContent = `Reviewed: ${count(dropped)} to drop, ${count(decisions.size - dropped)} to keep.`;
    for (const made of document.querySelectorAll("[data-key]")) mark(made);
    try { localStorage.setItem(remembered, JSON.stringify([...decisions])); } catch { /* private */ }
  };

  const decide = (decision) => {
    const key = document.activeElement.closest?.("[data-key]")?.dataset.key;
    if (key === undefined) return;
    if (decision) decisions.set(key, decision);
    else decisions.delete(key);
    told();
  };

  const download = () => clipgap.saveTable("review.csv", "key,decision", [...decisions]);

  const answers = (marks) => {
    const known = [...marks].map((mark, n) => [mark, about().checkpoints[n]]).filter(([mark]) => mark !== "-");
    const line = ([mark, name]) => {
      const made = element("span", mark === "1" ? "right" : "wrong", mark === "1" ? "✓ " : "✗ ");
      made.append(element("bdi", "", name));
      return made;
    };
    if (known.length <= 4) return known.map(line);
    const right = known.filter(([mark]) => mark === "1");
    const sum = element("span", right.length ? "right" : "wrong", `✓ ${right.length} of ${known.length} models`);
    sum.title = known.map(([mark, name]) => `${mark === "1" ? "✓" : "✗"} ${name}`).join("\n");
    return [sum];
  };

  const card = (place, [row, key, file, marks, near, list, splits, reference, listed]) => {
    const { similarity, threshold, label } = state.index;
    const name = key ?? `row ${row}`;
    const made = element("article", "point");
    made.tabIndex = 0;
    const test = element("div", "test");
    test.append(picture(file, name));
    const id = element("bdi", "id", name);
    id.dir = "auto";
    test.append(id);
    if (label && label[place] >= 0) test.append(element("span", "label", className(label[place])));
    if (threshold[place] !== null && similarity[place] !== null) {
      const above = similarity[place] - threshold[place];
      const text = `${Math.abs(above).toFixed(3)} ${above > 0 ? "above" : "below"} the reference`;
      test.append(element("span", above > 0 ? "above" : "below", text));
    }
    test.append(...answers(marks));
    const strips = element("div", "strips");
    const n = Number($("split").value);
    const left = splits[n] || list; // 0: the same
    const shown = { file, name };
    const ends = `The scan lists ${about().listed} neighbours of a point; the list ends here.`;
    strips.append(strip(about().training, 1, near, list, shown, { empty: "no neighbours", short: ends, left, reviewed: true }));
    if (about().splits.length) {
      const same = splits[n] === 0 && list.length;
      strips.append(strip(`after ${about().splits[n]}`, 3, near, same ? [] : left, shown, {
        empty: same ? "the same: none of these is removed" : `all ${about().listed} listed neighbours are removed`,
        short: `The others of the ${about().listed} listed neighbours are removed; the list ends here.`,
        reviewed: true,
      }));
    }
    if (about().neighbours_in_reference) {
      strips.append(strip(about().reference, 2, reference, listed, shown, { empty: "no neighbours", short: "The scan's list ends here." }));
    }
    made.append(test, strips);
    return made;
  };

  const focusOn = (n) => {
    const cards = [...document.querySelectorAll(".point")];
    if (!cards.length) return;
    state.focus = Math.min(Math.max(0, n), cards.length - 1);
    cards[state.focus].focus();
    cards[state.focus].scrollIntoView({ block: "nearest" });
  };

  const keys = {
    ArrowRight: () => turnTo(state.page + 1),
    PageDown: () => turnTo(state.page + 1),
    ArrowLeft: () => turnTo(state.page - 1),
    PageUp: () => turnTo(state.page - 1),
    Home: () => turnTo(0),
    End: () => turnTo(pages() - 1),
    ArrowDown: () => focusOn(document.activeElement.closest?.(".point") ? state.focus + 1 : 0),
    ArrowUp: () => focusOn(state.focus - 1),
    "/": () => $("find").focus(),
    d: () => decide("drop"),
    k: () => decide("keep"),
    u: () => decide(null),
  };

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if ($("large").open || !clipgap.isShown("gallery")) return;
    if (event.target.closest("input, select")) {
      if (event.key === "Escape") event.target.blur();
      return;
    }
    if (keys[event.key]) {
      event.preventDefault();
      keys[event.key]();
    }
  });
  $("filters").addEventListener("submit", (event) => event.preventDefault());
  $("set").addEventListener("change", () => choose());
  $("find").addEventListener("input", () => filter());
  $("download").addEventListener("click", download);
  $("forget").addEventListener("click", () => { decisions.clear(); told(); });
  window.addEventListener("hashchange", () => { if (clipgap.isShown("gallery")) restore(); });
  $("split").addEventListener("change", () => ($("moved").checked ? filter() : turnTo(state.page)));
  for (const id of ["label", "moved", "order"]) $(id).addEventListener("change", () => filter());
  for (const id of ["low", "high"]) $(id).addEventListener("input", () => filter());
  $("first").addEventListener("click", keys.Home);
  $("previous").addEventListener("click", keys.ArrowLeft);
  $("next").addEventListener("click", keys.ArrowRight);
  $("last").addEventListener("click", keys.End);
  clipgap.begin("gallery", () => load("data/gallery.js").then(start));
})();
