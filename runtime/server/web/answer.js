// One answer of the model: asks for it, and keeps count of tokens and time. Knows nothing of the page.

import { events, request } from "./api.js";

const AT_ONCE = 50; // ms: below it, arrivals say more of buffers on the way than of the model

export class Answer {
  text = "";
  reasoning = "";
  finish = null; // stop, length, timeout; stopped: by the user; error
  error = null;
  promptTokens = null;
  cachedTokens = 0;
  tokens = 0;
  first = null; // ms from asking to the first text
  last = null;

  // Tokens after the first over their time; of an answer that came all at once, all over the whole time.
  get tokensPerSecond() {
    if (this.first === null || !this.tokens) return null;
    const spent = this.last - this.first;
    return spent < AT_ONCE ? (this.tokens * 1000) / this.last : ((this.tokens - 1) * 1000) / spent;
  }

  get failed() {
    return this.finish === "error";
  }

  // Asks, and calls `changed` after every piece. Never throws: what goes wrong stands in `error`.
  async ask(body, { key, signal, changed }) {
    const start = performance.now();
    const full = { ...body, stream: true, stream_options: { include_usage: true } };
    try {
      const response = await request("v1/chat/completions", { key, signal, body: full });
      for await (const event of events(response)) this.#take(event, start, changed);
      this.finish ??= "error";
      if (this.failed) this.error = "The stream broke off.";
    } catch (error) {
      this.finish = signal.aborted ? "stopped" : "error";
      if (this.failed) this.error = error.message;
    }
    changed();
  }

  #take(event, start, changed) {
    if (event.usage) {
      this.promptTokens = event.usage.prompt_tokens;
      this.cachedTokens = event.usage.prompt_tokens_details?.cached_tokens ?? 0;
      this.tokens = event.usage.completion_tokens;
    }
    for (const { delta, finish_reason: finish } of event.choices ?? []) {
      if (delta?.content || delta?.reasoning_content) {
        this.last = performance.now() - start;
        this.first ??= this.last;
        this.text += delta.content ?? "";
        this.reasoning += delta.reasoning_content ?? "";
        if (!event.usage) this.tokens += 1; // an estimate until the usage comes: one piece is about one token
      }
      this.finish = finish ?? this.finish;
    }
    changed();
  }

  // "12 tokens · 41.5 tokens/s · first after 120 ms · 34 prompt tokens (16 cached)"
  summary() {
    const parts = [];
    if (this.tokens) parts.push(`${this.tokens} tokens`);
    if (this.tokensPerSecond !== null) parts.push(`${this.tokensPerSecond.toFixed(1)} tokens/s`);
    if (this.first !== null) parts.push(`first after ${time(this.first)}`);
    if (this.promptTokens !== null) {
      parts.push(`${this.promptTokens} prompt tokens${this.cachedTokens ? ` (${this.cachedTokens} cached)` : ""}`);
    }
    const ends = { stopped: "stopped", length: "cut at the limit of tokens", timeout: "cut by the time limit" };
    if (this.finish in ends) parts.push(ends[this.finish]);
    return parts.join(" · ");
  }
}

function time(ms) {
  return ms < 1000 ? `${ms.toFixed(0)} ms` : `${(ms / 1000).toFixed(1)} s`;
}
