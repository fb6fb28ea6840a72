// The settings form: what it holds is kept in this browser, but for the API key, which lasts as long as the tab.

const STORE = "heddle.settings";
const KEY = "heddle.key";
const NUMBERS = [
  "temperature", "max_tokens", "top_p", "top_k", "min_p", "seed",
  "repetition_penalty", "presence_penalty", "frequency_penalty",
];

export class Settings {
  #form;

  // `keyChanged` is called where another API key is given.
  constructor(form, keyChanged) {
    this.#form = form;
    for (const [name, value] of Object.entries(read(localStorage, STORE))) {
      if (form.elements[name] && name !== "api_key") form.elements[name].value = value;
    }
    form.elements.api_key.value = sessionStorage.getItem(KEY) ?? "";
    form.addEventListener("input", () => this.#save());
    form.elements.api_key.addEventListener("change", keyChanged);
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("reset", () => setTimeout(() => {
      this.#save();
      keyChanged();
    }));
  }

  get key() {
    return this.#form.elements.api_key.value.trim();
  }

  get system() {
    return this.#form.elements.system.value.trim();
  }

  // The first field that holds something impossible, which the browser then points at; null where all is well.
  get invalid() {
    return [...this.#form.elements].find((field) => !field.checkValidity()) ?? null;
  }

  // Sampling fields of a request. Empty fields are not sent: the server has its own defaults.
  get sampling() {
    const fields = {};
    for (const name of NUMBERS) {
      const { value } = this.#form.elements[name];
      if (value !== "") fields[name] = Number(value);
    }
    const stop = this.#form.elements.stop.value.split("\n").filter(Boolean);
    return stop.length ? { ...fields, stop } : fields;
  }

  #save() {
    const fields = Object.fromEntries(new FormData(this.#form));
    sessionStorage.setItem(KEY, fields.api_key.trim());
    delete fields.api_key;
    localStorage.setItem(STORE, JSON.stringify(fields));
  }
}

// An object that JSON.stringify put there; an empty one where there is none or something else.
export function read(storage, name) {
  try {
    const value = JSON.parse(storage.getItem(name));
    return value && typeof value === "object" ? value : {};
  } catch {
    return {};
  }
}
