/** What a stream tells, by WebSocket or as server-sent events: begin, token, ..., then done or error. */
import type { Done, ErrorDetail } from "../api/types";

/** `number` counts the events of an answer from 0; the `id` of its begin event is what it is taken up by. */
export type StreamEvent =
  | { type: "begin"; number: number; id: string }
  | { type: "token"; number: number; text: string }
  | (Done & { number?: number })
  | { type: "error"; number?: number | null; error: ErrorDetail };

const KNOWN = new Set(["begin", "token", "done", "error"]);

/** The event in a text; null for what this page does not know, which a newer server may send. */
export function parseEvent(data: string): StreamEvent | null {
  try {
    const value: unknown = JSON.parse(data);
    const type = typeof value === "object" && value !== null && "type" in value ? value.type : undefined;
    return typeof type === "string" && KNOWN.has(type) ? (value as StreamEvent) : null;
  } catch {
    return null;
  }
}
