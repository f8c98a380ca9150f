/** An answer from its request to its end, whatever happens to the connections in between.
 *
 * It is asked for over a WebSocket; where none gets through (some proxies), by POST /chat as server-sent events. When a
 * connection is lost in mid-answer, the rest is taken from GET /answers/{id}/events, which the server keeps for a while.
 */
import { ApiFailure, ask, failureOf, forget, post } from "../api/http";
import type { Asked, ChatEvent, Done } from "../api/types";
import { parseEvent } from "./events";
import { ConnectionLost, overSocket, stopped } from "./socket";
import { serverSent } from "./sse";

/** Where in which answer we are; it has no name before its first event. `after`: the last event that came. */
export interface Position {
  answer: string | null;
  after: number;
}

export const BEGINNING: Position = { answer: null, after: -1 };

export interface Listener {
  text(piece: string): void;
  /** An event was taken: from here on the answer could be taken up. */
  reached(at: Position): void;
  /** Whether there is a connection; while there is none the page says so. */
  connected(there: boolean): void;
}

// Without any progress for so long, it is given up.
const PATIENCE_MS = 60_000;
const PAUSES_MS = [300, 700, 1500, 3000, 5000];

type End = Extract<ChatEvent, { type: "done" | "error" }>;

/** The end of an answer to `asked`, or of the one at `from`. ApiFailure: it failed. AbortError: it was stopped. */
export async function answer(
  asked: Asked | null,
  from: Position,
  listener: Listener,
  stop: AbortSignal,
): Promise<Done> {
  let at = from;
  let end: End | undefined;
  let tries = 0;
  let progress = Date.now();
  let socket = asked !== null;

  const tell = (event: ChatEvent) => {
    tries = 0;
    progress = Date.now();
    listener.connected(true);
    // What came already may come again when a stream is taken up; its text must not.
    if (typeof event.number === "number") {
      if (event.number <= at.after) return;
      at = { answer: event.type === "begin" ? event.id : at.answer, after: event.number };
      listener.reached(at);
    }
    if (event.type === "token") listener.text(event.text);
    else if (event.type !== "begin") end = event;
  };

  const attempt = async () => {
    if (at.answer !== null) await events(() => ask(restOf(at), { signal: stop }), tell, stop);
    else if (asked === null) throw lostInMidAnswer();
    else if (socket) await overSocket(asked, tell, stop);
    else await events(() => post("/chat", { ...asked, stream: true }, stop), tell, stop);
    if (end === undefined) throw new ConnectionLost(true);
  };

  while (end === undefined) {
    try {
      await attempt();
    } catch (error) {
      if (stop.aborted) break;
      // A WebSocket that is refused tells no reason; the same by HTTP does.
      if (socket && error instanceof ConnectionLost && !error.opened) {
        socket = false;
        continue;
      }
      if (!mayComeBack(error)) throw error;
      if (Date.now() - progress > PATIENCE_MS) throw lostInMidAnswer();
      listener.connected(false);
      await pause(PAUSES_MS[Math.min(tries++, PAUSES_MS.length - 1)]!, stop);
      if (stop.aborted) break;
    }
  }
  if (end === undefined) {
    // Over a socket it was told already; to tell it twice does no harm.
    if (at.answer !== null) forget(at.answer);
    throw stopped();
  }
  if (end.type === "error") throw failureOf(503, end.error);
  return end;
}

const restOf = (at: Position) => `/answers/${encodeURIComponent(at.answer!)}/events?after=${at.after}`;

async function events(
  response: () => Promise<Response>,
  tell: (event: ChatEvent) => void,
  stop: AbortSignal,
): Promise<void> {
  const { body } = await response();
  if (body === null) return;
  for await (const { data } of serverSent(body)) {
    if (stop.aborted) throw stopped();
    const event = parseEvent(data);
    if (event === null) continue;
    tell(event);
    if (event.type === "done" || event.type === "error") return;
  }
}

const lostInMidAnswer = () => new ApiFailure(0, "The connection was lost in mid-answer.", "connection_lost");

/** Whether to try again: the network failed, or a proxy has nobody behind it. Refusals stay refusals. */
const mayComeBack = (error: unknown) =>
  error instanceof ConnectionLost ||
  error instanceof TypeError ||
  (error instanceof ApiFailure && (error.code === "unreachable" || error.status === 502));

/** Shorter if it is stopped. */
const pause = (ms: number, stop: AbortSignal) =>
  new Promise<void>((resolve) => {
    const over = () => {
      clearTimeout(timer);
      stop.removeEventListener("abort", over);
      resolve();
    };
    const timer = setTimeout(over, ms);
    stop.addEventListener("abort", over);
  });
