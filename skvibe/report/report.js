"use strict";
// Everything from the data is written with textContent: a row's text is never markup.
(() => {
  const $ = (id) => document.getElementById(id);
  const data = JSON.parse($("data").textContent);
  const n = data.row.length;
  const table = $("suspects"), head = table.tHead.rows[0], body = table.tBodies[0];
  const pick = (codes, names) => (i) => names[codes[i]];
  const get = {
    row: (i) => data.row[i],
    given: pick(data.given, data.classes),
    clean: pick(data.clean, data.classes),
    predicted: pick(data.predicted, data.classes),
    score: (i) => data.score[i],
    removed: pick(data.removed, data.filters),
    action: pick(data.action, data.actions),
    reason: pick(data.reason, data.reasons),
    content: (i) => (data.text ? data.text[i] : ""),
    nearest: (i) => data.nearest[i],
  };
  const columns = [
    ["row", "Row", true], ["action", "Action", false], ["given", "Given", false],
    ["clean", "Inferred", false], ["predicted", "Predicted", false],
    ["score", "Score", true], ["reason", "Why", false],
  ];
  if (data.text || data.thumbs) columns.push(["content", "Content", false]);
  columns.push(["nearest", "Nearest trusted row", false]);

  const state = { key: "", down: false, page: 0, size: 50, shown: [] };
  let haystack = null;

  function element(tag, text, className) {
    const made = document.createElement(tag);
    if (text !== undefined) made.textContent = text;
    if (className) made.className = className;
    return made;
  }

  // -- which rows, in which order ------------------------------------------------
  function searchable() {
    if (haystack) return haystack;
    haystack = new Array(n);
    for (let i = 0; i < n; i++) {
      haystack[i] = [get.row(i), get.given(i), get.clean(i), get.predicted(i),
        get.removed(i), get.action(i), get.reason(i), get.content(i)].join("\n").toLowerCase();
    }
    return haystack;
  }
  function order(key, down) {
    const value = get[key], sign = down ? -1 : 1;
    const compare = typeof value(0) === "number"
      ? (a, b) => sign * (value(a) - value(b)) || a - b
      : (() => {
        const collator = new Intl.Collator(undefined, { numeric: true });
        return (a, b) => sign * collator.compare(value(a), value(b)) || a - b;
      })();
    return compare;
  }
  function update() {
    const words = $("search").value.toLowerCase().split(/\s+/).filter(Boolean);
    const chosen = [["f-action", "action"], ["f-given", "given"], ["f-removed", "removed"]]
      .map(([id, key]) => [key, $(id).value]).filter(([, code]) => code !== "");
    const texts = words.length ? searchable() : null;
    const rows = [];
    for (let i = 0; i < n; i++) {
      if (chosen.some(([key, code]) => data[key][i] !== Number(code))) continue;
      if (texts && !words.every((word) => texts[i].includes(word))) continue;
      rows.push(i);
    }
    if (state.key) rows.sort(order(state.key, state.down));
    state.shown = rows;
    state.page = 0;
    draw();
  }

  // -- drawing -------------------------------------------------------------------
  // Words that suspect rows share are marked where they stand.
  const marks = new Set(data.words), token = /[\p{L}\p{N}_]+|\S/gu;
  function marked(text) {
    const parts = new DocumentFragment();
    let done = 0;
    for (const found of marks.size ? text.matchAll(token) : []) {
      if (!marks.has(found[0].toLowerCase())) continue;
      parts.append(text.slice(done, found.index), element("mark", found[0]));
      done = found.index + found[0].length;
    }
    parts.append(text.slice(done));
    return parts;
  }
  function content(cell, thumb, text) {
    if (thumb !== undefined && thumb >= 0) {
      const image = element("img", undefined, "thumb");
      image.src = data.images[thumb];
      image.alt = "";
      cell.append(image);
    }
    if (text) {
      const paragraph = element("span", undefined, "text");
      paragraph.append(marked(text));
      paragraph.title = "Click for the whole text";
      paragraph.addEventListener("click", () => paragraph.classList.toggle("open"));
      cell.append(paragraph);
    }
  }
  function cell(i, key, name, number) {
    const made = element("td", undefined, number ? "number" : "");
    made.dataset.name = name;
    const holder = element("div");
    made.append(holder);
    if (key === "action") {
      holder.append(element("span", get.action(i), "tag " + get.action(i)));
    } else if (key === "score") {
      holder.textContent = get.score(i).toFixed(3);
    } else if (key === "content") {
      content(holder, data.thumbs ? data.thumbs[i] : undefined, get.content(i));
    } else if (key === "nearest") {
      const near = data.nearest[i];
      if (near < 0) holder.textContent = "none";
      else {
        holder.append(element("span", "row " + data.neighbours.row[near] + ", labelled "
          + data.classes[data.neighbours.given[near]], "small"));
        content(holder, data.neighbours.thumbs ? data.neighbours.thumbs[near] : undefined,
          data.neighbours.text ? data.neighbours.text[near] : "");
      }
    } else {
      holder.textContent = String(get[key](i));
    }
    return made;
  }
  function draw() {
    const total = state.shown.length, pages = Math.max(1, Math.ceil(total / state.size));
    state.page = Math.min(state.page, pages - 1);
    const start = state.page * state.size;
    const part = state.shown.slice(start, start + state.size);
    body.replaceChildren(...part.map((i) => {
      const line = document.createElement("tr");
      line.append(...columns.map(([key, name, number]) => cell(i, key, name, number)));
      return line;
    }));
    for (const th of head.children) {
      const own = th.dataset.key === state.key;
      th.setAttribute("aria-sort", own ? (state.down ? "descending" : "ascending") : "none");
    }
    $("sort").value = state.key ? state.key + (state.down ? "-" : "+") : "";
    $("status").textContent = total.toLocaleString("en") + " of " + n.toLocaleString("en")
      + " rows" + (total ? ", " + (start + 1).toLocaleString("en") + " to "
      + (start + part.length).toLocaleString("en") + " shown" : "");
    $("place").textContent = "Page " + (state.page + 1) + " of " + pages;
    $("first").disabled = $("previous").disabled = state.page === 0;
    $("last").disabled = $("next").disabled = state.page === pages - 1;
    $("download").disabled = total === 0;
  }

  // -- CSV -----------------------------------------------------------------------
  function csvCell(value) {
    let text = String(value);
    // A spreadsheet would run these as formulas; numbers are left alone.
    if (!/^[+-]?\d+(\.\d*)?([eE][+-]?\d+)?$/.test(text)) {
      text = text.replace(/^(?=\s*[=+\-@＝＋－＠]|[\t\r\n])|(?<=[;,\t\r\n])(?=\s*[=+\-@＝＋－＠])/g, "'");
    }
    return /[",\r\n]/.test(text) ? '"' + text.replaceAll('"', '""') + '"' : text;
  }
  function download() {
    const names = ["row", "given_label", "clean_label", "predicted_label", "poison_score",
      "removed_by", "nearest_trusted_row", "action", "reason"];
    const keys = ["row", "given", "clean", "predicted", "score", "removed", "near", "action", "reason"];
    if (data.text) { names.push("text"); keys.push("content"); }
    const near = (i) => (data.nearest[i] < 0 ? "" : data.neighbours.row[data.nearest[i]]);
    const lines = [names.join(",")];
    for (const i of state.shown) {
      lines.push(keys.map((key) => csvCell(key === "near" ? near(i) : get[key](i))).join(","));
    }
    const url = URL.createObjectURL(new Blob([lines.join("\r\n") + "\r\n"],
      { type: "text/csv;charset=utf-8" }));
    const link = document.createElement("a");
    link.href = url;
    link.download = "suspects.csv";
    document.body.append(link);
    link.click();
    link.remove();
    setTimeout(() => URL.revokeObjectURL(url), 10000);
  }

  // -- set-up --------------------------------------------------------------------
  function fill(select, names, codes) {
    const counts = new Map();
    for (const code of codes) counts.set(code, (counts.get(code) || 0) + 1);
    const all = element("option", "all");
    all.value = "";
    select.append(all);
    [...counts.keys()].sort((a, b) => a - b).forEach((code) => {
      const made = element("option", (names[code] || "none") + " (" + counts.get(code) + ")");
      made.value = code;
      select.append(made);
    });
    select.addEventListener("change", update);
  }
  function sortBy(key, down) {
    state.key = key;
    state.down = down;
    update();
  }
  function start() {
    if (n === 0) {
      $("status").textContent = "No row is suspect.";
      return;
    }
    table.classList.toggle("has-text", Boolean(data.text));
    const none = element("option", "most suspect");
    none.value = "";
    $("sort").append(none);
    for (const [key, name, number] of columns) {
      const th = element("th", undefined, number ? "number" : "");
      th.scope = "col";
      th.dataset.key = key;
      head.append(th);
      if (key === "content" && !data.text || key === "nearest") {
        th.textContent = name;
        continue;
      }
      const button = element("button", name);
      button.type = "button";
      button.addEventListener("click", () => sortBy(key, state.key === key ? !state.down : number && key === "score"));
      th.append(button);
      for (const [sign, word] of [["+", "ascending"], ["-", "descending"]]) {
        const option = element("option", name + ", " + word);
        option.value = key + sign;
        $("sort").append(option);
      }
    }
    $("sort").addEventListener("change", () => {
      const value = $("sort").value;
      sortBy(value.slice(0, -1), value.endsWith("-"));
    });
    fill($("f-action"), data.actions, data.action);
    fill($("f-given"), data.classes, data.given);
    fill($("f-removed"), data.filters, data.removed);
    let waiting;
    $("search").addEventListener("input", () => {
      clearTimeout(waiting);
      waiting = setTimeout(update, 120);
    });
    const turn = (where) => () => { state.page = where(); draw(); };
    $("first").addEventListener("click", turn(() => 0));
    $("previous").addEventListener("click", turn(() => state.page - 1));
    $("next").addEventListener("click", turn(() => state.page + 1));
    $("last").addEventListener("click", turn(() => Infinity));
    $("size").addEventListener("change", () => { state.size = Number($("size").value); state.page = 0; draw(); });
    $("download").addEventListener("click", download);
    $("controls").hidden = $("pager").hidden = table.hidden = false;
    update();
  }
  start();
  document.documentElement.dataset.ready = "yes";
})();
