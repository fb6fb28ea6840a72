// The conversation: what was said, how it is shown, and asking for the next answer.

import { Answer } from "./answer.js";
import { copyButton, make, render } from "./markdown.js";
import { read } from "./settings.js";

const STORE = "heddle.chat";

export class Chat {
  #log;
  #home;
  #turns = []; // {role, content, element, answer}
  #running = null; // {controller, answer}
  #changed;
  #ask;

  // log: the element that scrolls, home: where turns go; ask(messages) gives {body, key}; changed(what) tells of it.
  constructor(log, home, ask, changed) {
    this.#log = log;
    this.#home = home;
    this.#ask = ask;
    this.#changed = changed;
    for (const { role, content, note } of read(sessionStorage, STORE).turns ?? []) this.#add(role, content, note);
    this.#mark();
  }

  get running() {
    return this.#running !== null;
  }

  get empty() {
    return this.#turns.length === 0;
  }

  async say(text) {
    this.#add("user", text);
    await this.#answer();
  }

  // Another answer to the last question.
  async again() {
    if (this.running) return;
    while (this.#turns.length && this.#turns.at(-1).role !== "user") this.#turns.pop().element.remove();
    if (this.#turns.length) await this.#answer();
  }

  stop() {
    this.#running?.controller.abort();
  }

  clear() {
    this.stop();
    for (const { element } of this.#turns) element.remove();
    this.#turns = [];
    this.#save();
    this.#changed("cleared");
  }

  async #answer() {
    const messages = this.#kept.map(({ role, content }) => ({ role, content }));
    const turn = this.#add("assistant", "");
    const [controller, answer] = [new AbortController(), new Answer()];
    this.#running = { controller, answer };
    turn.element.classList.add("pending");
    this.#mark();
    this.#changed("started");
    let waiting = false;
    const draw = () => {
      waiting = false;
      const follow = this.#atEnd();
      turn.content = answer.text;
      render(turn.body, answer.text);
      turn.thought.hidden = !answer.reasoning;
      turn.thought.lastChild.textContent = answer.reasoning;
      turn.note.textContent = answer.summary();
      if (follow) this.#log.scrollTop = this.#log.scrollHeight;
    };
    const changed = () => {
      if (!waiting) requestAnimationFrame(draw); // once a frame, however fast tokens come
      waiting = true;
    };
    const { body, key } = this.#ask(messages);
    await answer.ask(body, { key, signal: controller.signal, changed });
    draw();
    turn.element.classList.remove("pending");
    turn.failed = !answer.text && ["error", "stopped"].includes(answer.finish); // what broke off later stays as it is
    if (answer.failed) {
      const alert = make("p", "error", answer.error);
      alert.setAttribute("role", "alert");
      turn.body.after(alert);
    }
    this.#running = null;
    this.#mark();
    this.#save();
    this.#changed(answer.finish);
  }

  #add(role, content, note = "") {
    const element = make("article", `turn ${role}`);
    element.setAttribute("aria-label", role === "user" ? "You" : "Model");
    const turn = { role, content, element, body: make("div", "body"), note: make("span", "note", note) };
    turn.thought = make("details", "thought");
    turn.thought.hidden = true;
    turn.thought.append(make("summary", "", "Reasoning"), make("div"));
    if (role === "user") turn.body.textContent = content;
    else render(turn.body, content);
    const bar = make("div", "bar");
    const again = make("button", "quiet again", "Again");
    again.type = "button";
    again.title = "Another answer to the same question";
    again.addEventListener("click", () => this.again());
    bar.append(turn.note, copyButton(() => turn.content), again);
    element.append(turn.thought, turn.body, bar);
    this.#turns.push(turn);
    this.#home.append(element);
    this.#log.scrollTop = this.#log.scrollHeight;
    return turn;
  }

  // The turns that are part of the conversation: without answers that failed, and their questions.
  get #kept() {
    return this.#turns.filter((turn, i) => !turn.failed && !(turn.role === "user" && this.#turns[i + 1]?.failed));
  }

  // Only the last answer can be asked for again.
  #mark() {
    for (const turn of this.#turns) {
      turn.element.querySelector(".again").hidden = turn !== this.#turns.at(-1) || this.running;
    }
  }

  #atEnd() {
    return this.#log.scrollHeight - this.#log.scrollTop - this.#log.clientHeight < 60;
  }

  // A tab that is reloaded goes on where it was.
  #save() {
    const kept = this.#kept.map(({ role, content, note }) => ({ role, content, note: note.textContent }));
    try {
      sessionStorage.setItem(STORE, JSON.stringify({ turns: kept }));
    } catch {
      sessionStorage.removeItem(STORE); // too long to be kept
    }
  }
}
