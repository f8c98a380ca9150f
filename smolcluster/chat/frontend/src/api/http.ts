/** Requests to the backend of this origin. Nothing of the page asks any other host. */
import type { Config, ErrorDetail, Link, Stages, Tablet } from "./types";

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

/** The browser asks with the ETag that it has: where nothing has changed nothing travels. */
export const stages = async (): Promise<Stages> => (await ask("/stages", { cache: "no-cache" })).json();

export const tablets = async (): Promise<Tablet[]> => {
  const { tablets }: { tablets: Tablet[] } = await (await ask("/tablets")).json();
  return tablets;
};

export const reconnect = () => post("/reconnect", {});

/** Whether this server has the dashboard of its run too. Its own description says so: asked for what is not there, it
 * would have to answer with an error.
 */
export async function hasDashboard(): Promise<boolean> {
  try {
    const { paths }: { paths: Record<string, unknown> } = await (await fetch("/openapi.json")).json();
    return "/dashboard/run" in paths;
  } catch {
    return false;
  }
}

/** A link that lets one more device in. */
export const link = async (): Promise<Link> => (await post("/links", {})).json();

/** Have the server stop an answer. Nobody waits for it: where it cannot be told, the answer ends by itself soon. */
export const forget = (answer: string): void =>
  void ask(`/answers/${encodeURIComponent(answer)}`, { method: "DELETE" }).catch(() => undefined);

/** Come in by a key, a link or the one-time key in it; whether it was one. A cookie then keeps us in, which no script
 * can read.
 */
export async function enter(shown: string): Promise<boolean> {
  const onetime = /[?&]key=([^&#]+)/.exec(shown)?.[1];
  if (onetime !== undefined) return used(decodeURIComponent(onetime));
  try {
    // With the key itself one asks for a link, as for any other device.
    const made = await ask("/links", { method: "POST", headers: { Authorization: `Bearer ${shown}` } });
    const { url }: Link = await made.json();
    return used(new URL(url).searchParams.get("key") ?? "");
  } catch (error) {
    // A header takes no letters beyond Latin-1; a key has none. A dashboard by itself makes no links.
    if (error instanceof ApiFailure && error.status !== 401 && error.status !== 404) throw error;
    return used(shown);
  }
}

async function used(onetime: string): Promise<boolean> {
  try {
    // The answer leads back to the page; it need not be followed for its cookie to count.
    const response = await fetch(`/?key=${encodeURIComponent(onetime)}`, { redirect: "manual", cache: "no-store" });
    return response.type === "opaqueredirect";
  } catch {
    throw unreachable();
  }
}
