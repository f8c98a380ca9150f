/** What a stream tells, by WebSocket or as server-sent events. */
import type { ChatEvent } from "../api/types";

const KNOWN: ReadonlySet<unknown> = new Set<ChatEvent["type"]>(["begin", "token", "done", "error"]);

/** The event in a text; null for what this page does not know, which a newer server may send. */
export function parseEvent(data: string): ChatEvent | null {
  try {
    const value: unknown = JSON.parse(data);
    return typeof value === "object" && value !== null && "type" in value && KNOWN.has(value.type)
      ? (value as ChatEvent)
      : null;
  } catch {
    return null;
  }
}
