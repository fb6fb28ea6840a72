// What the engine does, from /metrics once a second, while somebody looks.

import { request } from "./api.js";
import { Chart } from "./chart.js";

const PERIOD = 1000;

export class Engine {
  #home;
  #note;
  #key;
  #last = null;
  #requests = new Chart("Requests", ["running", "waiting"], { digits: 0, least: 4 });
  #pages = new Chart("KV cache in use", ["pages"], { digits: 0, least: 100, most: 100, unit: " %" });
  #tokens = new Chart("Tokens/s", ["generated", "prompt"], { digits: 0, least: 10 });

  // `visible` says whether anybody could see the charts, `key` gives the API key.
  constructor(home, note, key, visible) {
    this.#home = home;
    this.#note = note;
    this.#key = key;
    home.append(this.#requests.element, this.#pages.element, this.#tokens.element);
    const tick = async () => {
      if (visible() && !document.hidden) await this.#read();
      setTimeout(tick, PERIOD); // after the answer: a slow server is not asked twice at once
    };
    tick();
  }

  async #read() {
    let values;
    try {
      const options = { key: this.#key(), signal: AbortSignal.timeout(5 * PERIOD) };
      values = parse(await (await request("metrics", options)).text());
    } catch (error) {
      this.#note.textContent = error.status === 401 ? "Needs the API key." : `No figures: ${error.message}`;
      this.#home.classList.add("stale");
      this.#last = null;
      return;
    }
    this.#note.textContent = "";
    this.#home.classList.remove("stale");
    const now = { at: performance.now(), generated: values.generation_tokens_total, prompt: values.prompt_tokens_total };
    this.#requests.add([values.num_requests_running, values.num_requests_waiting]);
    this.#pages.add([100 * values.kv_cache_usage_perc]);
    if (this.#last) {
      const rate = (name) => Math.max(0, ((now[name] - this.#last[name]) * 1000) / (now.at - this.#last.at));
      this.#tokens.add([rate("generated"), rate("prompt")]);
    }
    this.#last = now;
  }
}

// Prometheus text as {name without heddle: sum over all labels}.
export function parse(text) {
  const values = {};
  for (const line of text.split("\n")) {
    const found = /^heddle:(\w+)(?:\{.*\})?\s+(\S+)/.exec(line);
    if (found) values[found[1]] = (values[found[1]] ?? 0) + Number(found[2]);
  }
  return values;
}
