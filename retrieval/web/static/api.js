// Questions to the server. Every error has a message for people.

export class Failed extends Error {
  constructor(message, code, status) { super(message); this.code = code; this.status = status; }
}

export function address(path, parameters = {}) {
  const kept = Object.entries(parameters).filter(([, value]) => value !== null && value !== undefined && value !== "");
  const query = new URLSearchParams(kept).toString();
  return query ? `${path}?${query}` : path;
}

export async function ask(path, parameters, { body = null, signal = null } = {}) {
  let answer;
  try {
    const type = body && body.type.startsWith("image/") ? body.type : "application/octet-stream";
    answer = await fetch(address(path, parameters), body ? { method: "POST", body, signal, headers: { "Content-Type": type } } : { signal });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Failed("The server does not answer. Is it still running?", "unreachable", 0);
  }
  let told = null;
  try { told = await answer.json(); } catch { /* no JSON: told below */ }
  if (!answer.ok) throw new Failed(told?.error?.message ?? `The server answered ${answer.status}.`, told?.error?.code ?? "", answer.status);
  return told;
}
