// The table of cases and its filters; the distributions are in group_strips.js, which comes before this in the page.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const { cases, figures } = data;
  const $ = (id) => document.getElementById(id);
  const collator = new Intl.Collator("en", { numeric: true });

  const write = (value) => {
    if (value === null || value === undefined) return "–";
    const size = Math.abs(value);
    if (size !== 0 && (size < 1e-4 || size >= 1e6)) return value.toPrecision(4).replace(/\.?0+e/, "e");
    return String(Number(value.toPrecision(4))).replace("-", "−");
  };
  const make = (tag, options = {}, ...children) => {
    const element = Object.assign(document.createElement(tag), options);
    element.append(...children);
    return element;
  };

  // Columns: what a case has there, how it is shown, and which way a first click sorts (1: rising).

  const described = (key) => (item) => data.described[key][item[key]];
  const mixed = (key) => data.described[key].length > 1;
  const reasonsOf = (item) => item.reasons.map((k) => data.reasons[k]).join("; ");
  const columns = [
    { key: "id", label: "Case", get: (item) => item.id, show: caseCell, first: 1, always: true },
    { key: "verdict", label: "Verdict", get: (item) => item.verdict, show: verdictCell, first: 1, always: true },
    { key: "z", label: "Stands out in", get: (item) => (item.z === null ? null : Math.abs(item.z)), show: standingCell, first: -1, always: true },
    { key: "reasons", label: "Reasons", get: (item) => reasonsOf(item) || null, show: reasonsCell, first: 1, shown: data.reasons.length > 0 },
    ...figures.map((figure, k) => ({
      key: figure.name, label: figure.label, get: (item) => item.values[k], show: figureCell(k), first: figure.bad < 0 ? 1 : -1,
      shown: figure.main, number: true, figure: k,
    })),
    { key: "seconds", label: "Seconds", get: (item) => item.seconds, show: secondsCell, first: -1, shown: true, number: true },
    { key: "method", label: "Method", get: described("method"), show: textCell("text"), first: 1, shown: mixed("method") },
    { key: "weights", label: "Weights", get: described("weights"), show: textCell("text"), first: 1, shown: mixed("weights") },
    { key: "version", label: "Version", get: described("version"), show: textCell("text"), first: 1, shown: mixed("version") },
  ];
  if (!columns.some((column) => column.figure !== undefined && column.shown)) {
    columns.filter((column) => column.figure !== undefined).slice(0, 8).forEach((column) => { column.shown = true; });
  }
  const byKey = new Map(columns.map((column) => [column.key, column]));
  const visible = () => columns.filter((column) => column.always || column.shown);

  function caseCell(item) {
    const box = make("div", { className: "case" });
    if (item.link && item.picture) {
      const picture = make("a", { className: "thumb", href: item.link, target: "_blank", rel: "noopener", tabIndex: -1 });
      picture.setAttribute("aria-hidden", "true");
      picture.dataset.uri = item.picture;
      box.append(picture);
    }
    box.append(item.link ? make("a", { href: item.link, target: "_blank", rel: "noopener", textContent: item.id })
      : make("span", { textContent: item.id }));
    return make("th", { scope: "row" }, box);
  }
  function verdictCell(item) {
    const { word, symbol } = data.verdicts[item.verdict];
    return make("td", {}, make("span", { className: `verdict ${word}`, textContent: `${symbol} ${word}` }));
  }
  function standingCell(item) {
    if (item.z === null) return make("td", { className: "standing none", textContent: "not comparable" });
    const side = item.bad === null ? "either way" : item.bad ? "worse" : "better";
    const mark = Math.abs(item.z) >= data.outlier ? "◆ " : "";
    return make("td", { className: "standing", textContent: `${mark}${item.of}: z ${item.z.toFixed(1).replace("-", "−")}, ${side}` });
  }
  function figureCell(k) {
    return (item) => {
      const value = item.values[k];
      const inner = item.odd.includes(k) ? make("span", { className: "odd", textContent: write(value) }) : write(value);
      return make("td", { className: value === null || value === undefined ? "number none" : "number" }, inner);
    };
  }
  function secondsCell(item) { return make("td", { className: "number", textContent: write(item.seconds) }); }
  function reasonsCell(item) {
    const reasons = item.reasons.map((k) => data.reasons[k]);
    const cell = make("td", { className: "reasons" }, reasons.slice(0, 2).join("; "));
    if (reasons.length > 2) {
      cell.append(make("details", {}, make("summary", {}, `and ${reasons.length - 2} more`), reasons.slice(2).join("; ")));
    }
    return cell;
  }
  function textCell(className) {
    return (item, column) => make("td", { className, textContent: column.get(item) || "" });
  }

  // What is shown: filters, order, page, the case that is chosen.

  const state = {
    verdicts: new Set(), outliers: false, problems: new Set(), words: [], conditions: [],
    sort: "verdict", direction: 1, page: 0, size: 50, chosen: null, order: [], shown: new Set(),
  };
  cases.forEach((item, k) => {
    item.rank = k; // the order of the data: the worst first
    item.kinds = new Set(item.reasons.map((reason) => data.kinds[reason]));
    item.text = [item.id, data.verdicts[item.verdict].word, reasonsOf(item), described("method")(item),
      described("weights")(item), described("version")(item)].join("\n").toLowerCase();
  });

  const RELATIONS = {
    "<": (a, b) => a < b, "<=": (a, b) => a <= b, ">": (a, b) => a > b, ">=": (a, b) => a >= b, "=": (a, b) => a === b,
  };
  function conditionsIn(text) {
    return text.split(/\s*(?:[,;&]+|\band\b)\s*/i).filter((part) => part.trim()).map((part) => {
      const match = /^\s*(.+?)\s*(<=|>=|<|>|=)\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?)\s*$/i.exec(part);
      const name = match && match[1].toLowerCase();
      const column = match && columns.find((each) => (each.number || each.key === "z")
        && (each.key === name || each.label.toLowerCase() === name));
      if (!match) throw new Error(`Not understood: “${part.trim()}”. Write for example: lncc_after < 0.6`);
      if (!column) throw new Error(`No figure is called “${match[1]}”.`);
      return { text: part.trim(), get: column.get, holds: RELATIONS[match[2]], bound: Number(match[3]) };
    });
  }
  function passes(item) {
    return (!state.verdicts.size || state.verdicts.has(item.verdict))
      && (!state.outliers || (item.z !== null && Math.abs(item.z) >= data.outlier))
      && [...state.problems].every((kind) => item.kinds.has(kind))
      && state.words.every((word) => item.text.includes(word))
      && state.conditions.every(({ get, holds, bound }) => {
        const value = get(item);
        return value !== null && value !== undefined && holds(value, bound);
      });
  }
  function ordered(items) {
    const { get } = byKey.get(state.sort);
    const keyed = items.map((item) => [get(item), item]);
    keyed.sort(([a, one], [b, other]) => {
      const [lacks, lacking] = [a === null || a === undefined, b === null || b === undefined];
      if (lacks || lacking) return lacks - lacking || one.rank - other.rank;
      return state.direction * (typeof a === "string" ? collator.compare(a, b) : a - b) || one.rank - other.rank;
    });
    return keyed.map(([, item]) => item);
  }
  function update({ keepPage = false } = {}) {
    state.order = ordered(cases.filter(passes));
    state.shown = new Set(state.order.map((item) => item.rank));
    if (!keepPage) state.page = 0;
    drawStrips(); // before the table: they are measured, and a changed page would have to be laid out for that
    drawTable();
  }

  // The table, one page of it at a time; a picture is made when it comes into view.

  const lazily = new IntersectionObserver((entries) => entries.forEach((entry) => {
    if (entry.isIntersecting) fill(entry.target);
  }), { rootMargin: "200px" });
  function fill(place) {
    lazily.unobserve(place);
    if (!place.firstChild) place.append(make("img", { src: place.dataset.uri, alt: "" }));
  }
  const [head, body] = [document.querySelector("#cases thead"), document.querySelector("#cases tbody")];

  function drawHead() {
    const row = make("tr");
    for (const column of visible()) {
      const active = column.key === state.sort;
      const arrow = make("span", { textContent: active ? (state.direction > 0 ? " ▲" : " ▼") : "" });
      arrow.setAttribute("aria-hidden", "true");
      const button = make("button", { type: "button", textContent: column.label }, arrow);
      button.dataset.key = column.key;
      const cell = make("th", { scope: "col", className: column.number ? "number" : "" }, button);
      if (active) cell.setAttribute("aria-sort", state.direction > 0 ? "ascending" : "descending");
      row.append(cell);
    }
    head.replaceChildren(row);
  }
  function filters() { // in words, for paper and for the ear
    const asked = [...document.querySelectorAll("button[aria-pressed=true]")].map((button) => (button.dataset.verdict
      ? data.verdicts[Number(button.dataset.verdict)].word : button.dataset.problem ? `“${button.textContent}”` : "outlier"));
    if (state.words.length) asked.push(`“${state.words.join(" ")}”`);
    if (state.conditions.length) asked.push(state.conditions.map(({ text }) => text).join(" and "));
    return asked.length ? `; filtered by ${asked.join(", ")}` : "";
  }
  function pages() { return Math.max(1, Math.ceil(state.order.length / state.size)); }
  function drawTable() {
    drawHead();
    lazily.disconnect();
    const start = state.page * state.size;
    const rows = state.order.slice(start, start + state.size);
    body.replaceChildren(...rows.map((item) => {
      const row = make("tr", { tabIndex: -1 }, ...visible().map((column) => column.show(item, column)));
      row.dataset.rank = item.rank;
      return row;
    }));
    body.querySelectorAll(".thumb").forEach((place) => lazily.observe(place));
    mark();
    const sorted = byKey.get(state.sort);
    const end = start + rows.length;
    $("status").textContent = `${state.order.length} of ${cases.length} cases, sorted by ${sorted.label}`
      + `${state.sort === "verdict" && state.direction > 0 ? ", the worst first" : state.direction > 0 ? ", rising" : ", falling"}`
      + (rows.length < state.order.length ? `; here ${start + 1} to ${end}` : "") + filters();
    $("page").textContent = `Page ${state.page + 1} of ${pages()}`;
    $("previous").disabled = state.page === 0;
    $("next").disabled = state.page >= pages() - 1;
  }
  function mark() {
    for (const row of body.children) {
      const chosen = Number(row.dataset.rank) === state.chosen;
      if (chosen) row.setAttribute("aria-current", "true"); else row.removeAttribute("aria-current");
      row.tabIndex = -1;
    }
    const entry = body.querySelector("[aria-current]") || body.firstElementChild;
    if (entry) entry.tabIndex = 0;
  }
  function turn(page) {
    state.page = Math.min(Math.max(page, 0), pages() - 1);
    drawTable();
    $("region").scrollTop = 0;
  }
  function choose(rank, { reveal = false } = {}) {
    if (state.chosen !== rank) {
      state.chosen = rank;
      drawStrips();
    }
    if (!reveal) { mark(); return; }
    const place = state.order.findIndex((item) => item.rank === rank);
    if (place < 0) return;
    if (Math.floor(place / state.size) !== state.page) turn(Math.floor(place / state.size)); else mark();
    const row = body.querySelector("[aria-current]");
    row.scrollIntoView({ block: "center" });
    row.focus({ preventScroll: true });
  }
  function step(row, by) {
    const place = state.order.findIndex((item) => item.rank === Number(row.dataset.rank)) + by;
    const target = state.order[Math.min(Math.max(place, 0), state.order.length - 1)];
    choose(target.rank, { reveal: true });
  }

  const strips = stripsIn($("strips"), { cases, figures, state, choose, make, write });
  const drawStrips = () => strips.draw();
  const placeStrips = () => strips.place(columns.filter((column) => column.figure !== undefined && column.shown).map(({ figure }) => figure));

  // Controls.

  function toggled(button, on) { button.setAttribute("aria-pressed", String(on)); }
  function readConditions() {
    const input = $("conditions");
    try {
      state.conditions = conditionsIn(input.value);
      input.removeAttribute("aria-invalid");
      $("complaint").textContent = "";
    } catch (error) { // the table keeps what was understood last, and the page says so
      input.setAttribute("aria-invalid", "true");
      $("complaint").textContent = `${error.message} The list is still as before.`;
      return;
    }
    update();
  }
  function reset() {
    Object.assign(state, { verdicts: new Set(), outliers: false, problems: new Set(), words: [], conditions: [], sort: "verdict", direction: 1 });
    $("text").value = $("conditions").value = $("complaint").textContent = "";
    $("conditions").removeAttribute("aria-invalid");
    document.querySelectorAll("button[aria-pressed]").forEach((button) => toggled(button, false));
    update();
  }
  function switches(selector, chosen, read) {
    document.querySelectorAll(selector).forEach((button) => button.addEventListener("click", () => {
      const [set, value] = [state[chosen], read(button)];
      if (!set.delete(value)) set.add(value);
      toggled(button, set.has(value));
      update();
    }));
  }
  function boxes() {
    $("columns").replaceChildren(...columns.filter((column) => !column.always).map((column) => {
      const box = make("input", { type: "checkbox", checked: Boolean(column.shown) });
      box.addEventListener("change", () => { column.shown = box.checked; placeStrips(); drawTable(); });
      return make("label", {}, box, ` ${column.label}`);
    }));
  }
  function show(wanted) {
    for (const column of columns) if (column.figure !== undefined) column.shown = wanted(column);
    boxes(); placeStrips(); drawTable();
  }

  switches("[data-verdict]", "verdicts", (button) => Number(button.dataset.verdict));
  switches("[data-problem]", "problems", (button) => Number(button.dataset.problem));
  $("outliers").addEventListener("click", () => { state.outliers = !state.outliers; toggled($("outliers"), state.outliers); update(); });
  $("text").addEventListener("input", () => { state.words = $("text").value.toLowerCase().split(/\s+/).filter(Boolean); update(); });
  $("conditions").addEventListener("input", readConditions);
  $("figure").append(...columns.filter((column) => column.number).map((column) => make("option", { value: column.key, textContent: column.label })));
  $("add").addEventListener("click", () => {
    const bound = $("bound").value;
    if (bound === "") { $("bound").focus(); return; }
    const text = $("conditions").value.trim();
    $("conditions").value = `${text}${text ? " and " : ""}${$("figure").value} ${$("relation").value} ${bound}`;
    readConditions();
  });
  $("reset").addEventListener("click", reset);
  $("main").addEventListener("click", () => show((column) => figures[column.figure].main));
  $("every").addEventListener("click", () => show(() => true));
  $("previous").addEventListener("click", () => turn(state.page - 1));
  $("next").addEventListener("click", () => turn(state.page + 1));
  $("rows").addEventListener("change", () => { state.size = Number($("rows").value); update(); });
  head.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    const column = byKey.get(button.dataset.key);
    state.direction = state.sort === column.key ? -state.direction : column.first;
    state.sort = column.key;
    update();
    head.querySelector(`[data-key="${column.key}"]`).focus();
  });
  body.addEventListener("click", (event) => {
    const row = event.target.closest("tr");
    if (row && !event.target.closest("a")) choose(Number(row.dataset.rank));
  });
  body.addEventListener("focusin", (event) => {
    const row = event.target.closest("tr");
    if (row && Number(row.dataset.rank) !== state.chosen) choose(Number(row.dataset.rank));
  });
  body.addEventListener("keydown", (event) => {
    const row = event.target.closest("tr");
    const steps = { ArrowDown: 1, ArrowUp: -1, PageDown: state.size, PageUp: -state.size, Home: -Infinity, End: Infinity };
    if (!row || event.target !== row) return;
    if (event.key === "Enter") { const link = row.querySelector("a[href]"); if (link) link.click(); return; }
    if (!(event.key in steps)) return;
    event.preventDefault();
    step(row, steps[event.key]);
  });
  document.addEventListener("keydown", (event) => {
    const menu = document.querySelector(".menu");
    if (event.key === "Escape" && menu.open) { menu.open = false; menu.querySelector("summary").focus(); }
  });
  window.addEventListener("beforeprint", () => {
    body.querySelectorAll(".thumb").forEach(fill);
    strips.draw({ all: true });
  });
  for (const query of ["print", "(prefers-color-scheme: dark)"]) window.matchMedia(query).addEventListener("change", drawStrips);
  new ResizeObserver(drawStrips).observe($("strips"));

  document.querySelectorAll(".scripted").forEach((element) => { element.hidden = false; });
  boxes();
  placeStrips();
  update();
})();
