// Talking with the server: JSON, streams of events, and errors as people read them. Paths are relative, so that the page also
// works behind a proxy that puts a prefix in front of it.

export class ApiError extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

export async function request(path, { key, body, signal } = {}) {
  const headers = {};
  if (key) headers.authorization = `Bearer ${key}`;
  if (body !== undefined) headers["content-type"] = "application/json";
  const options = { method: body === undefined ? "GET" : "POST", headers, signal, cache: "no-store" };
  if (body !== undefined) options.body = JSON.stringify(body);
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError("The server does not answer.", 0);
  }
  if (!response.ok) throw new ApiError(explain(await response.text(), response.status), response.status);
  return response;
}

function explain(text, status) {
  try {
    const { error } = JSON.parse(text);
    return String(error.message ?? error);
  } catch {
    return text.slice(0, 300) || `The server answered with status ${status}.`;
  }
}

// The data of server-sent events, as objects. It ends at [DONE] or with the response.
export async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    while (true) {
      const { value, done } = await reader.read();
      if (done) return;
      const lines = (rest + value).split("\n");
      rest = lines.pop();
      for (const line of lines) {
        if (!line.startsWith("data:")) continue;
        const data = line.slice(5).trim();
        if (data === "[DONE]") return;
        const event = JSON.parse(data);
        if (event.error) throw new ApiError(String(event.error.message ?? event.error), 200);
        yield event;
      }
    }
  } finally {
    await reader.cancel().catch(() => {}); // also stops the model where the stream is left early
  }
}
