// Puts the page together.

import { request } from "./api.js";
import { Chat } from "./chat.js";
import { Engine } from "./metrics.js";
import { Settings } from "./settings.js";

const $ = (id) => document.getElementById(id);
const THEMES = ["auto", "light", "dark"];
const HEALTH_PERIOD = 5000;

const settings = new Settings($("settings"), () => findModels());
const chat = new Chat($("log"), $("turns"), ask, changed);
new Engine($("charts"), $("engine-note"), () => settings.key, () => panelOpen());

function ask(turns) {
  const system = settings.system ? [{ role: "system", content: settings.system }] : [];
  const body = { model: $("model").value, messages: [...system, ...turns], ...settings.sampling };
  return { body, key: settings.key };
}

function changed(what) {
  const { running } = chat;
  $("send").hidden = running;
  $("stop").hidden = !running;
  $("empty").hidden = !chat.empty;
  const said = { started: "The model answers", stopped: "Stopped", cleared: "", error: "" };
  $("announce").textContent = said[what] ?? "The answer is complete";
}
changed("cleared");

// The composer.

const input = $("input");

function send() {
  const text = input.value.trim();
  if (!text || chat.running) return;
  if (settings.invalid) {
    openPanel(true);
    settings.invalid.reportValidity();
    return;
  }
  input.value = "";
  fit();
  chat.say(text);
}

function fit() {
  input.style.height = "auto";
  input.style.height = `${Math.min(input.scrollHeight + 2, window.innerHeight * 0.4)}px`;
}

input.addEventListener("input", fit);
input.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    send();
  }
});
$("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  send();
});
$("stop").addEventListener("click", () => {
  chat.stop();
  input.focus();
});

function begin() {
  chat.clear();
  input.focus();
}
$("new").addEventListener("click", begin);

// Settings and engine: beside the chat where there is room, else over it.

const narrow = matchMedia("(max-width: 820px)");

function panelOpen() {
  return !$("panel").hidden;
}

function openPanel(open) {
  $("panel").hidden = !open;
  $("panel-toggle").setAttribute("aria-expanded", String(open));
}
$("panel-toggle").addEventListener("click", () => openPanel(!panelOpen()));
narrow.addEventListener("change", () => openPanel(!narrow.matches));
openPanel(!narrow.matches);

document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") {
    if (chat.running) chat.stop();
    else if (narrow.matches) openPanel(false);
    input.focus();
  } else if (event.altKey && event.code === "KeyN") {
    event.preventDefault();
    begin();
  } else if (event.altKey && event.code === "KeyS") {
    event.preventDefault();
    openPanel(!panelOpen());
    if (panelOpen()) $("settings").elements.system.focus();
  }
});

// Light and dark.

function paint(theme) {
  document.documentElement.dataset.theme = theme;
  $("theme").textContent = `Theme: ${theme}`;
  localStorage.setItem("heddle.theme", theme);
}
const kept = localStorage.getItem("heddle.theme");
paint(THEMES.includes(kept) ? kept : "auto");
$("theme").addEventListener("click", () => {
  paint(THEMES[(THEMES.indexOf(document.documentElement.dataset.theme) + 1) % THEMES.length]);
});

// The server: its models, and whether it is there.

async function findModels() {
  const select = $("model");
  const before = select.value;
  try {
    const { data } = await (await request("v1/models", { key: settings.key })).json();
    select.replaceChildren(...data.map(({ id }) => new Option(id, id)));
    if (data.some(({ id }) => id === before)) select.value = before;
    select.title = "Model";
  } catch (error) {
    select.replaceChildren(new Option(error.status === 401 ? "needs an API key" : "no model", ""));
    select.title = error.message;
    if (error.status === 401) openPanel(true);
  }
}

async function watchHealth() {
  let state = "ok";
  try {
    await request("health", { key: settings.key, signal: AbortSignal.timeout(HEALTH_PERIOD) });
  } catch (error) {
    state = error.status === 503 ? "draining" : "away";
  }
  const words = { ok: "The server is ready", draining: "The server is about to stop", away: "The server does not answer" };
  if ($("health").dataset.state !== state) {
    if (state === "ok") findModels();
    $("health").dataset.state = state;
    $("health").title = words[state];
    $("health").setAttribute("aria-label", words[state]);
  }
  setTimeout(watchHealth, HEALTH_PERIOD);
}
watchHealth();
