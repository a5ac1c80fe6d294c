"use strict";
// The browser of failures. All text goes through textContent: nothing is parsed.
(() => {
  const $ = (id) => document.getElementById(id);
  const holder = $("data");
  if (!holder) return;
  const data = JSON.parse(holder.textContent);
  holder.textContent = "";
  const {columns, text} = data;
  const count = columns.key.length;
  const section = $("browser"), explorer = $("explorer");
  const list = $("list"), rows = $("rows"), detail = $("detail");
  const ROW = 92, SPARE = 6; // pixels of a row, as in the style; rows beyond the edge
  const FIRST = data.statuses[0];
  const SEARCHED = ["question", "answer", "truth", "note",
    ...data.judged.map((name) => `why_${name}`)];
  const methodNames = data.methods.map(([name]) => name);
  const selects = {
    status: [$("by-status"), data.statuses, columns.status],
    skill: [$("by-skill"), data.skills, columns.skills],
    method: [$("by-method"), methodNames, columns.method],
    tier: [$("by-tier"), data.tiers, columns.tier],
    prefix: [$("by-prefix"), data.prefixes, columns.prefix],
  };
  const inputs = {q: $("query"), from: $("from-step"), to: $("to-step"), order: $("order")};
  const byKey = new Map(columns.key.map((key, row) => [key, row]));

  let found = [];   // rows that pass the filters, in order
  let current = -1; // place in `found` of what the detail shows
  let chosen = false; // by the reader: then it is in the address
  let lower = null; // the texts in lower case, made at the first search
  const painted = new Map(); // place in `found` -> element

  function element(tag, kind, content) {
    const made = document.createElement(tag);
    if (kind) made.className = kind;
    if (content !== undefined) made.textContent = content;
    return made;
  }

  // The filters.

  function fill(name) {
    const [select, names, column] = selects[name];
    const counts = new Array(names.length).fill(0);
    column.forEach((value, row) => {
      if (name !== "status" && data.statuses[columns.status[row]] !== FIRST) return;
      for (const one of [].concat(value)) if (one >= 0) counts[one] += 1;
    });
    const order = names.map((_, i) => i).filter((i) => counts[i]);
    if (name !== "status") order.sort((a, b) => counts[b] - counts[a]);
    select.append(new Option("all", ""));
    const groups = new Map();
    for (const i of order) {
      const option = new Option(`${names[i]} (${counts[i].toLocaleString("en")})`, names[i]);
      const group = name === "skill" ? data.groups[i] : "";
      if (group && !groups.has(group)) {
        const made = element("optgroup");
        made.label = group;
        groups.set(group, made);
        select.append(made);
      }
      (groups.get(group) ?? select).append(option);
    }
    if (order.length < 2 && name !== "status") select.closest("label").hidden = true;
    select.addEventListener("change", () => refresh(found[current]));
  }

  function matching(words) {
    if (!words.length) return () => true;
    lower ??= [text, data.names, data.skills].map((own) => own.map((t) => t.toLowerCase()));
    const hits = words.map((word) =>
      lower.map((own) => Uint8Array.from(own, (one) => one.includes(word))));
    const searched = SEARCHED.map((name) => columns[name]);
    return (row) => hits.every(([inText, inName, inSkill]) =>
      searched.some((column) => inText[column[row]])
      || inName[columns.image[row]]
      || columns.skills[row].some((skill) => inSkill[skill]));
  }

  function filter() {
    const wanted = Object.entries(selects)
      .map(([name, [select, names, column]]) => [name, names.indexOf(select.value), column])
      .filter(([, value]) => value >= 0);
    const from = Number(inputs.from.value || 0);
    const to = Number(inputs.to.value || Infinity);
    const words = inputs.q.value.toLowerCase().split(/\s+/).filter(Boolean);
    const matches = matching(words);
    found = [];
    for (let row = 0; row < count; row++) {
      const step = columns.step[row];
      if (step < from || step > to) continue;
      const kept = wanted.every(([name, value, column]) =>
        name === "skill" ? column[row].includes(value) : column[row] === value);
      if (kept && matches(row)) found.push(row);
    }
    const order = inputs.order.value;
    if (order === "step") found.sort((a, b) => columns.step[a] - columns.step[b]);
    if (order === "times") found.sort((a, b) => columns.times[b] - columns.times[a]);
  }

  function refresh(row) {
    filter();
    const kept = chosen && row !== undefined ? found.indexOf(row) : -1;
    chosen = kept >= 0;
    list.scrollTop = 0;
    clearRows();
    rows.style.height = `${found.length * ROW}px`;
    const noun = found.length === 1 ? "question" : "questions";
    $("count").textContent = `${found.length.toLocaleString("en")} ${noun} of `
      + `${count.toLocaleString("en")}`;
    show(Math.max(kept, found.length ? 0 : -1));
    writeAddress();
  }

  // The list: only the rows in sight exist.

  function clearRows() {
    painted.clear();
    rows.replaceChildren();
  }

  function paint() {
    const first = Math.max(0, Math.floor(list.scrollTop / ROW) - SPARE);
    const end = Math.min(found.length,
      Math.ceil((list.scrollTop + list.clientHeight) / ROW) + SPARE);
    for (const [at, own] of painted) {
      if (at < first || at >= end) {
        own.remove();
        painted.delete(at);
      }
    }
    for (let at = first; at < end; at++) {
      if (painted.has(at)) continue;
      const own = line(at);
      painted.set(at, own);
      rows.append(own);
    }
  }

  function line(at) {
    const row = found[at];
    const made = element("div", "row");
    made.id = `row-${at}`;
    made.setAttribute("role", "option");
    made.setAttribute("aria-posinset", at + 1);
    made.setAttribute("aria-setsize", found.length);
    made.setAttribute("aria-selected", at === current);
    made.style.top = `${at * ROW}px`;
    made.append(image(row, ""));
    const words = element("div");
    const question = element("p", "question said", text[columns.question[row]] || "(no question)");
    question.dir = "auto";
    const answers = element("p", "answers");
    answers.append(answer(row), " ", truth(row));
    const [name, kind] = data.methods[columns.method[row]];
    const small = element("p", "soft small");
    small.append(element("span", `key k${kind}`), [
      columns.skills[row].map((skill) => data.skills[skill]).join(", "),
      name, place(row),
    ].filter(Boolean).join(" · "));
    words.append(question, answers, small);
    made.append(words);
    made.addEventListener("click", () => choose(at));
    return made;
  }

  function image(row, description) {
    const address = data.images[columns.image[row]];
    if (!address) return element("span", "absent");
    const made = element("img");
    made.loading = "lazy";
    made.decoding = "async";
    made.alt = description;
    made.src = address;
    return made;
  }

  function status(row) {
    return data.statuses[columns.status[row]];
  }

  function answer(row) {
    const marks = {wrong: "✗", right: "✓"};
    const said = text[columns.answer[row]];
    const made = element("span", status(row) === "wrong" ? "wrong" : "");
    made.append(`${marks[status(row)] ?? status(row)} `, element("span", "said", said));
    return made;
  }

  function truth(row) {
    const known = text[columns.truth[row]];
    const made = element("span", "right");
    if (known && status(row) !== "right") made.append("✓ ", element("span", "said", known));
    return made;
  }

  function place(row) {
    return columns.heldout[row] ? "unseen picture" : `step ${columns.step[row]}`;
  }

  // One failure.

  function show(at) {
    painted.get(current)?.setAttribute("aria-selected", "false");
    current = at;
    explorer.classList.toggle("chosen", chosen);
    if (at < 0) {
      list.removeAttribute("aria-activedescendant");
      detail.replaceChildren(element("p", "soft", "Nothing passes these filters."));
      paint();
      return;
    }
    const top = at * ROW, bottom = top + ROW;
    if (top < list.scrollTop) list.scrollTop = top;
    if (bottom > list.scrollTop + list.clientHeight) {
      list.scrollTop = bottom - list.clientHeight;
    }
    paint();
    painted.get(at)?.setAttribute("aria-selected", "true");
    list.setAttribute("aria-activedescendant", `row-${at}`);
    // A button that is pressed again and again keeps the focus.
    const active = document.activeElement;
    const held = detail.contains(active) ? active.className : null;
    detail.replaceChildren(...parts(at));
    detail.scrollTop = 0;
    if (held !== null) (detail.querySelector(`button.${held}:enabled`) ?? detail).focus();
  }

  function parts(at) {
    const row = found[at];
    const tools = element("div", "tools");
    const button = (label, kind, act, off) => {
      const made = element("button", kind, label);
      made.type = "button";
      made.disabled = Boolean(off);
      made.addEventListener("click", act);
      return made;
    };
    const link = element("a", "permalink", "Link to this");
    link.href = `#f=${columns.key[row]}`;
    tools.append(
      button("Back to the list", "back", back),
      button("Previous", "previous", () => step(-1), at === 0),
      button("Next", "next", () => step(1), at === found.length - 1),
      element("span", "soft small",
        `${(at + 1).toLocaleString("en")} of ${found.length.toLocaleString("en")}`),
      link,
    );
    const question = element("h3", "said", text[columns.question[row]] || "(no question)");
    question.dir = "auto";
    const answers = element("div", "answers");
    answers.append(answer(row), truth(row));
    const made = [tools, image(row, data.names[columns.image[row]]), question, answers];
    const verdict = text[columns.verdict[row]];
    if (/[yn]/.test(verdict)) made.push(criteria(row, verdict));
    const note = text[columns.note[row]];
    if (note) made.push(element("p", "soft said", `The judge: ${note}`));
    made.push(facts(row));
    return made;
  }

  function criteria(row, verdict) {
    const table = element("table", "criteria");
    table.append(element("caption", "", "What the judge found"));
    const body = table.createTBody();
    data.judged.forEach((name, i) => {
      const own = body.insertRow();
      const head = element("th", "", name);
      head.scope = "row";
      const word = {y: "✓ yes", n: "✗ no"}[verdict[i]] ?? "–";
      own.append(head, element("td", {y: "right", n: "wrong"}[verdict[i]], word),
        element("td", "said", text[columns[`why_${name}`][row]]));
    });
    return table;
  }

  function facts(row) {
    const made = element("dl");
    const add = (name, ...content) => {
      const value = element("dd", "said");
      value.append(...content);
      made.append(element("dt", "", name), value);
    };
    const skills = columns.skills[row].flatMap((skill) => {
      const link = element("a", "", data.skills[skill]);
      link.href = `#skill=${encodeURIComponent(data.skills[skill])}`;
      const group = data.groups[skill];
      return [link, group ? ` (${group}) ` : " "];
    });
    if (skills.length) add("Skill", ...skills);
    const times = columns.times[row];
    const repeated = times > 1 ? `, the first of ${times.toLocaleString("en")} times` : "";
    add("Asked by", methodNames[columns.method[row]]);
    add("When", columns.heldout[row]
      ? `after training, about a picture it never saw${repeated}`
      : `at step ${columns.step[row]}${repeated}`);
    add("Status", status(row));
    if (columns.tier[row]) {
      add("Tier", data.tiers[columns.tier[row]]);
      add("Asked again", text[columns.found[row]].trim());
    }
    if (columns.prefix[row] >= 0) add("Begins with", data.prefixes[columns.prefix[row]]);
    add("Picture", data.names[columns.image[row]]);
    return made;
  }

  function choose(at) {
    if (at < 0 || at >= found.length) return;
    chosen = true;
    show(at);
    writeAddress();
    // On a phone the failure takes the place of the list.
    if (!list.offsetParent) {
      if (!detail.contains(document.activeElement)) detail.focus();
      explorer.querySelector(".panes").scrollIntoView();
    }
  }

  function step(by) {
    choose(Math.min(Math.max(current + by, 0), found.length - 1));
    const {top, bottom} = explorer.getBoundingClientRect();
    if (bottom < 0 || top > innerHeight) section.scrollIntoView();
  }

  function back() {
    chosen = false;
    explorer.classList.remove("chosen");
    writeAddress();
    paint();
    list.focus();
  }

  // The address: filters and the failure, so that a link brings others here.

  function writeAddress() {
    const address = new URLSearchParams();
    for (const [name, [select]] of Object.entries(selects)) {
      const value = select.value || (name === "status" ? "all" : "");
      if (value && !(name === "status" && value === FIRST)) address.set(name, value);
    }
    for (const [name, input] of Object.entries(inputs)) {
      if (input.value) address.set(name, input.value);
    }
    if (chosen && current >= 0) address.set("f", columns.key[found[current]]);
    const own = address.toString().replaceAll("+", "%20");
    if (own || location.hash.includes("=")) history.replaceState(null, "", `#${own}`);
  }

  function readAddress() {
    const address = new URLSearchParams(location.hash.slice(1));
    const row = byKey.get(address.get("f"));
    const otherwise = row === undefined ? FIRST : status(row);
    for (const [name, [select]] of Object.entries(selects)) {
      const value = address.get(name) ?? (name === "status" ? otherwise : "");
      select.value = value === "all" ? "" : value;
      if (select.selectedIndex < 0) select.value = "";
    }
    for (const [name, input] of Object.entries(inputs)) {
      input.value = address.get(name) ?? "";
      if (name === "order" && input.selectedIndex < 0) input.value = "";
    }
    chosen = row !== undefined;
    refresh(row);
  }

  function onKey(event) {
    const inside = section.contains(event.target);
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (!inside && event.target !== document.body) return;
    if (event.key === "Escape" && inside) {
      if (event.target === inputs.q || chosen) back();
      return;
    }
    if (event.target.matches("input, select, textarea")) return;
    const inList = event.target === list;
    const moves = {j: 1, ArrowRight: 1, k: -1, ArrowLeft: -1};
    if (inList) {
      const page = Math.max(1, Math.floor(list.clientHeight / ROW) - 1);
      Object.assign(moves, {ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page,
        Home: -count, End: count});
    }
    if (event.key in moves && found.length) step(moves[event.key]);
    else if (event.key === "/") inputs.q.focus();
    else return;
    event.preventDefault();
  }

  for (const name of Object.keys(selects)) fill(name);
  if (new Set(columns.step).size < 2) inputs.from.closest("fieldset").hidden = true;
  for (const input of Object.values(inputs)) {
    const kind = input.tagName === "SELECT" ? "change" : "input";
    input.addEventListener(kind, () => refresh(found[current]));
  }
  explorer.querySelector("form").addEventListener("submit", (event) => event.preventDefault());
  $("clear").addEventListener("click", () => {
    history.replaceState(null, "", "#");
    readAddress();
  });
  list.addEventListener("scroll", paint, {passive: true});
  addEventListener("resize", paint);
  document.addEventListener("keydown", onKey);
  addEventListener("hashchange", () => {
    if (!location.hash.includes("=")) return;
    readAddress();
    section.scrollIntoView();
  });
  explorer.hidden = false;
  readAddress();
  if (location.hash.includes("=")) section.scrollIntoView();
})();
