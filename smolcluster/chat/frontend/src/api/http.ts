/** Requests to the backend of this origin. Nothing of the page asks any other host. */
import type { Config, ErrorDetail, Health } from "./types";

const API = "/api";

/** An answer that is no success, or none at all (status 0). `code` is for programs, `message` for people. */
export class ApiFailure extends Error {
  constructor(
    readonly status: number,
    message: string,
    readonly code: string | null = null,
  ) {
    super(message);
  }
}

export const unreachable = () => new ApiFailure(0, "The server cannot be reached.", "unreachable");

export const failureOf = (status: number, error: Partial<ErrorDetail> | undefined) =>
  new ApiFailure(status, error?.message ?? `The server answered with status ${status}.`, error?.code ?? null);

/** A response whose status is a success, or ApiFailure. */
export async function ask(path: string, init: RequestInit = {}): Promise<Response> {
  let response: Response;
  try {
    response = await fetch(API + path, { credentials: "same-origin", cache: "no-store", ...init });
  } catch (error) {
    if (init.signal?.aborted) throw error;
    throw unreachable();
  }
  if (response.ok) return response;
  const body: { error?: ErrorDetail } = await response.json().catch(() => ({}));
  throw failureOf(response.status, body.error);
}

export const post = (path: string, body: unknown, signal?: AbortSignal) =>
  ask(path, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
    ...(signal ? { signal } : {}),
  });

export const config = async (): Promise<Config> => (await ask("/config")).json();

/** 503 is an answer too: it says why it does not serve. */
export async function health(): Promise<Health> {
  let response: Response;
  try {
    response = await fetch(`${API}/health`, { credentials: "same-origin", cache: "no-store" });
  } catch {
    throw unreachable();
  }
  if (response.ok || response.status === 503) return response.json();
  throw failureOf(response.status, undefined);
}

export const reconnect = async (): Promise<Health> => (await post("/reconnect", {})).json();

/** Have the server stop an answer. Nobody waits for it: where it cannot be told, the answer ends by itself soon. */
export const forget = (answer: string): void =>
  void ask(`/answers/${encodeURIComponent(answer)}`, { method: "DELETE" }).catch(() => undefined);

/** Whether the key is the server's; it then keeps us by a cookie that no script can read. */
export async function enter(key: string): Promise<boolean> {
  try {
    // The answer to a right key leads back to the page; it need not be followed for its cookie to count.
    const response = await fetch(`/?key=${encodeURIComponent(key)}`, { redirect: "manual", cache: "no-store" });
    return response.type === "opaqueredirect" || response.ok;
  } catch {
    throw unreachable();
  }
}
