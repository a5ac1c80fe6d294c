"use strict";
/* One screen at a time, as the server says. Whatever a model said gets into the page as
   text (`textContent`), never as markup. */

const $ = (id) => document.getElementById(id);
const state = { screen: null, step: "question", since: 0, busy: false, given: null };
const INVISIBLE = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u200e\u200f\u202a-\u202e\u2066-\u2069]/g;

function make(tag, options = {}, ...children) {
  const one = document.createElement(tag);
  for (const [name, value] of Object.entries(options)) {
    if (name === "text") one.textContent = value;
    else if (name === "click") one.addEventListener("click", value);
    else if (value !== false && value != null) one.setAttribute(name, value === true ? "" : value);
  }
  one.append(...children.filter((child) => child));
  return one;
}

function said(text, kind = "") {
  return make("p", { class: `said ${kind}`, dir: "auto", text: text.replace(INVISIBLE, "\ufffd") });
}

/* ---- talking to the server ---- */

function trouble(text) {
  $("trouble").hidden = !text;
  $("trouble").textContent = text;
}

const pause = (ms) => new Promise((done) => setTimeout(done, ms));

/* An answer is sent until the server has said that it is kept. */
async function send(path, body = {}) {
  state.busy = true;
  try {
    for (;;) {
      let reply, told;
      try {
        reply = await fetch(path, {
          method: "POST", body: JSON.stringify(body), credentials: "same-origin",
          headers: { "Content-Type": "application/json" },
        });
        told = await reply.json();
      } catch {
        trouble("The study cannot be reached. Keep this page open: your answer is sent as soon as it is back.");
        await pause(1000);
        continue;
      }
      trouble(reply.ok ? "" : told.error);
      return { ok: reply.ok, status: reply.status, told };
    }
  } finally {
    state.busy = false;
  }
}

async function go(path, body) {
  if (state.busy) return;
  const { ok, status, told } = await send(path, body);
  if (ok) return show(told);
  if (status === 409 && path === "api/label") {
    const why = told.error;
    const next = await send("api/screen");
    if (next.ok) show(next.told);
    trouble(why);
  }
}

/* ---- screens ---- */

function show(screen) {
  state.screen = screen;
  state.step = "question";
  state.given = screen.given || null;
  const asking = screen.screen === "item" || screen.screen === "quiz";
  $("help").hidden = screen.screen === "welcome";
  $("back").hidden = !screen.again;
  $("progress").hidden = screen.total === undefined;
  if (screen.total !== undefined) {
    const what = screen.screen === "quiz" ? "exercise" : "answered";
    $("bar").max = Math.max(screen.total, 1);
    $("bar").value = screen.done;
    $("count").textContent = screen.screen === "quiz"
      ? `Exercise: ${screen.done + 1} of ${screen.total}` : `${screen.done} of ${screen.total} ${what}`;
  }
  clearTimeout(state.timer);
  if (asking) {
    state.since = 0;
    ask();
  } else {
    ({ welcome, wait, done: finished })[screen.screen]();
  }
  window.scrollTo(0, 0);
}

function put(...children) {
  $("main").replaceChildren(...children);
  const head = $("main").querySelector("[data-focus]");
  (head || $("main")).focus({ preventScroll: true });
}

function example(one) {
  return make("article", { class: "example" },
    make("img", { src: one.image, alt: `Picture for: ${one.question}`, loading: "lazy" }),
    make("div", {}, said(one.question),
      one.answer && make("p", { text: `Answer: ${one.answer}` }),
      make("p", { class: one.valid ? "good" : "bad", text: one.title }),
      make("p", { class: "soft", text: one.why })));
}

function rules() {
  const { criteria } = state.screen;
  return make("ul", { class: "rules" }, ...criteria.map((rule) =>
    make("li", {}, make("b", { text: rule.title }), make("span", { class: "soft", text: `${rule.text}.` }))));
}

function welcome() {
  const { screen } = state;
  const code = make("input", { id: "code", autocomplete: "off", spellcheck: "false", placeholder: "abcd-efgh-jkmn-pqrs" });
  const back = make("form", { class: "return" }, code, make("button", { text: "Go on" }));
  back.addEventListener("submit", (event) => {
    event.preventDefault();
    go("api/return", { code: code.value });
  });
  put(make("div", { class: "narrow" }, make("div", { class: "card" },
    make("h1", { text: "Is it a fair question, and is the answer right?", tabindex: "-1", "data-focus": true }),
    make("p", { text: `A computer asked ${screen.items} questions about pictures, and another one answered. We need people to say which questions are fair, and which answers are right.` }),
    make("ol", {},
      make("li", { text: "Read the rules and the examples below (two minutes)." }),
      make("li", { text: `A short exercise: ${screen.exercise} questions, each with an explanation. At most ${screen.mistakes_allowed} may go wrong.` }),
      make("li", { text: "Then the questions. Stop whenever you like: every answer is kept at once." })),
    make("p", {}, make("button", { class: "main", text: "Start", click: () => go("api/join", {}) })),
    make("h2", { text: "When a question is not valid" }), rules(),
    make("p", { class: "soft", text: "In all other cases it is valid, also when it is odd or hard. Judge by the picture alone; do not look anything up." }),
    make("h2", { text: "Examples" }),
    make("div", { class: "examples" }, ...screen.examples.map(example)),
    make("h2", { text: "You were here before, in another browser?" }),
    make("label", { for: "code", class: "soft", text: "Your return code" }), back,
    make("p", { class: "soft small", text: "We store your answers, how long they took and a random name. Nothing else about you." }))));
}

function guide() {
  const { screen } = state;
  const keys = [["V", "valid"], ["I", "invalid"], ["F", "flag: you cannot judge it"], ["C", "the answer is correct"],
    ["X", "the answer is incorrect"], ["1–4", "a rule or a reason"], ["Esc", "one step back"],
    ["L", "your last answer, to correct it"], ["?", "this guide"]];
  $("guide").replaceChildren(
    make("h2", { id: "guide-title", text: "Guide", tabindex: "-1", autofocus: true }), make("p", { text: screen.instruction }),
    make("h3", { text: "When a question is not valid" }), rules(),
    make("p", { class: "soft", text: "In all other cases it is valid, also when it is odd or hard." }),
    make("div", { class: "only-keys" }, make("h3", { text: "Keys" }),
      make("dl", { class: "keys" }, ...keys.flatMap(([key, text]) =>
        [make("dt", {}, make("kbd", { text: key })), make("dd", { text })]))),
    make("h3", { text: "Examples" }), make("div", { class: "examples" }, ...screen.examples.map(example)),
    make("h3", { text: "Your return code" }),
    make("p", {}, make("span", { class: "code", text: screen.code })),
    make("p", { class: "soft small", text: "With it you can go on in another browser. Keep it to yourself." }),
    make("p", {}, make("button", { class: "main", text: "Close", click: () => $("guide").close() })));
  $("guide").showModal();
}

function wait() {
  put(make("div", { class: "narrow" }, make("div", { class: "card" },
    make("h1", { text: "Nothing to do just now", tabindex: "-1", "data-focus": true }),
    make("p", { text: "Others have the last questions open. If one becomes free it shows up here by itself; you may also close this page." }),
    make("button", { text: "Look now", click: () => go("api/screen") }))));
  state.timer = setTimeout(() => go("api/screen"), 20000);
}

function finished() {
  const { done } = state.screen;
  put(make("div", { class: "narrow" }, make("div", { class: "card" },
    make("h1", { text: "Thank you, that was all", tabindex: "-1", "data-focus": true }),
    make("p", { text: `You answered ${done} question${done === 1 ? "" : "s"}; all of it is kept. You can close this page.` }))));
}

/* ---- a question, in two steps ---- */

function picture() {
  const { screen } = state;
  const image = make("img", { src: screen.image, alt: "The picture that the question is about" });
  const begin = () => { state.since ||= performance.now(); };
  image.addEventListener("load", begin);
  image.addEventListener("error", () => { begin(); trouble("The picture cannot be shown: flag the question, please."); });
  const large = () => {
    $("large").replaceChildren(make("img", { src: screen.image, alt: "The picture that the question is about" }));
    $("large").showModal();
  };
  return make("figure", { class: "picture" },
    make("button", { "aria-label": "Show the picture large", click: large }, image));
}

function choice(key, title, pressed, act, { why = "", kind = "" } = {}) {
  return make("button", { class: `choice ${kind}`, "data-key": key.toLowerCase(), "aria-pressed": String(Boolean(pressed)),
    "aria-keyshortcuts": key, click: act },
  make("kbd", { text: key, "aria-hidden": "true" }),
  make("span", {}, make("b", { text: title }), why && make("span", { class: "why", text: why })));
}

function ask() {
  const figure = picture();
  const card = make("section", { class: "card", id: "card", "aria-label": "The question" });
  put(make("div", { class: "ask" }, figure, card));
  step("question");
}

function step(name) {
  state.step = name;
  const { screen, given } = state;
  const second = name === "answer";
  const parts = [
    make("ol", { class: "steps" },
      make("li", { text: "1 The question", "aria-current": second ? null : "step" }),
      make("li", { text: "2 The answer", "aria-current": second ? "step" : null })),
    given && make("p", { class: "soft small", text: "Your earlier answer is marked. A new one takes its place." }),
    make("p", { class: "label", text: "Question" }), said(screen.question, "question"),
  ];
  const prompt = (text) => make("h2", { class: "prompt", text, tabindex: "-1", id: "prompt" });
  const back = make("button", { class: "quiet", text: "One step back", click: () => step("question") });
  if (name === "question") {
    parts.push(prompt("Is this a valid question about the picture?"), make("div", { class: "choices row" },
      choice("V", "Valid", given?.valid === 1, () => step("answer"), { kind: "yes" }),
      choice("I", "Invalid", given?.valid === 0, () => step("criterion"), { kind: "no" }),
      choice("F", "Flag", given?.flag, () => step("flag"))));
  } else if (name === "criterion") {
    parts.push(prompt("What is wrong with it?"), make("div", { class: "choices" },
      ...screen.criteria.map((rule, i) => choice(String(i + 1), rule.title, given?.criterion === rule.name,
        () => answer({ valid: 0, criterion: rule.name }), { why: rule.text }))),
    make("div", { class: "below" }, back));
  } else if (name === "flag") {
    const comment = make("textarea", { id: "comment", maxlength: "2000" });
    comment.value = given?.comment || "";
    parts.push(prompt("Why can you not judge it?"),
      make("label", { for: "comment", class: "label", text: "In your words (optional)" }), comment,
      make("div", { class: "choices" }, ...screen.flags.map((flag, i) =>
        choice(String(i + 1), flag.title, given?.flag === flag.name,
          () => answer({ flag: flag.name, comment: comment.value })))),
      make("div", { class: "below" }, back));
  } else {
    parts.push(make("p", { class: "label", text: "The model answered" }), said(screen.answer, "answer"),
      prompt("Is that answer correct?"), make("div", { class: "choices row" },
        choice("C", "Correct", given?.correct === 1, () => answer({ valid: 1, correct: 1 }), { kind: "yes" }),
        choice("X", "Incorrect", given?.correct === 0, () => answer({ valid: 1, correct: 0 }), { kind: "no" })),
      make("div", { class: "below" }, back));
  }
  $("card").replaceChildren(...parts.filter(Boolean));
  $("prompt").focus({ preventScroll: true });
}

async function answer(given) {
  if (state.busy) return;
  const { screen } = state;
  // Before the picture was there nobody can have looked at it.
  const seconds = state.since ? (performance.now() - state.since) / 1000 : 0;
  const body = { item: screen.item, seconds, ...given };
  if (screen.screen === "quiz") return explain(await send("api/quiz", body));
  if (seconds < screen.min_seconds && !state.given && !(await sure(seconds))) return;
  await go("api/label", body);
  $("news").textContent = "Answer kept. Next question.";
}

/* Asks once more about an answer that came too fast. */
function sure(seconds) {
  return new Promise((decide) => {
    const dialog = $("slow");
    const close = (value) => { dialog.close(); decide(value); };
    // Not by the event "close": it comes late, when the dialog may be open again.
    dialog.oncancel = (event) => { event.preventDefault(); close(false); };
    dialog.replaceChildren(
      make("h2", { id: "slow-title", text: "That was quick" }),
      make("p", { text: `You answered after ${seconds.toFixed(1)} seconds. Have you looked at the picture and read every word? Careless answers make the study useless.` }),
      make("div", { class: "below" },
        make("button", { class: "main", text: "Look again", click: () => close(false) }),
        make("button", { text: "My answer stands", click: () => close(true) })));
    dialog.showModal();
  });
}

function explain({ ok, told }) {
  if (!ok) return;
  if (told.right === undefined) return show(told.next);
  let text = "Next";
  const parts = [
    make("h3", { class: told.right ? "good" : "bad", text: told.right ? "Right" : "Not quite", tabindex: "-1", id: "prompt" }),
    make("p", {}, make("b", { text: `${told.title}. ` }), told.why)];
  if (told.ends) {
    const wrong = told.mistakes === 0 ? "without a mistake" : `with ${told.mistakes} mistake${told.mistakes === 1 ? "" : "s"}`;
    text = told.ends === "passed" ? "To the questions" : "Try again";
    parts.push(make("p", { text: told.ends === "passed"
      ? `That was the exercise, ${wrong}. Now the questions.`
      : `That was the exercise, ${wrong} of ${told.of}. Look at the guide once more; then there are new questions.` }));
  }
  const next = make("button", { class: "main", text, "data-key": "enter", click: () => show(told.next) });
  $("card").querySelectorAll(".choices, .below, .prompt, .label[for], textarea").forEach((one) => one.remove());
  $("card").append(make("div", { class: `verdict ${told.right ? "right" : "off"}`, role: "status" }, ...parts),
    make("div", { class: "below" }, next));
  state.step = "explained";
  next.focus();
}

/* ---- keys, buttons, theme ---- */

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat || document.querySelector("dialog[open]")) return;
  const typing = event.target.matches("input, textarea");
  const key = event.key.toLowerCase();
  if (key === "escape" && ["criterion", "flag", "answer"].includes(state.step)) {
    event.preventDefault();
    return step("question");
  }
  if (typing) return;
  if (key === "?" && !$("help").hidden) { event.preventDefault(); return guide(); }
  if (key === "l" && !$("back").hidden) return last();
  const found = document.querySelector(`[data-key="${CSS.escape(key)}"]`);
  // Enter on a focused button is a click already.
  if (found && !(key === "enter" && event.target.matches("button"))) { event.preventDefault(); found.click(); }
});

const last = () => go("api/before", { item: state.screen.item || "" });

$("back").addEventListener("click", last);
$("help").addEventListener("click", guide);
$("large").addEventListener("click", () => $("large").close());
$("theme").addEventListener("click", () => {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
  try { localStorage.setItem("theme", root.dataset.theme); } catch { /* not kept */ }
});
try {
  const kept = localStorage.getItem("theme");
  if (kept) document.documentElement.dataset.theme = kept;
} catch { /* not kept */ }

go("api/screen");
