/** One request over a WebSocket of its own. */
import type { Asked, ChatEvent } from "../api/types";
import { parseEvent } from "./events";

/** The connection broke before the answer's end. `opened`: whether there ever was one. */
export class ConnectionLost extends Error {
  constructor(readonly opened: boolean) {
    super("the connection was lost");
  }
}

// A network that swallows packets tells nothing of it.
const OPEN_MS = 8000;
// How long the server may take to say that it has stopped.
const STOP_MS = 3000;

export const socketUrl = (place: Pick<Location, "protocol" | "host"> = location) =>
  `${place.protocol === "https:" ? "wss" : "ws"}://${place.host}/api/ws/chat`;

/** Resolves after the last event. `stop` asks the server to end the answer, whose done event then says so. */
export function overSocket(asked: Asked, tell: (event: ChatEvent) => void, stop: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const socket = new WebSocket(socketUrl());
    let opened = false;
    let timer = setTimeout(() => finish(new ConnectionLost(false)), OPEN_MS);

    const finish = (error?: Error) => {
      clearTimeout(timer);
      stop.removeEventListener("abort", cancel);
      socket.onopen = socket.onmessage = socket.onclose = null;
      socket.close();
      if (error) reject(error);
      else resolve();
    };
    const cancel = () => {
      if (!opened) return finish(stopped());
      socket.send(JSON.stringify({ type: "cancel" }));
      timer = setTimeout(() => finish(stopped()), STOP_MS);
    };

    socket.onopen = () => {
      clearTimeout(timer);
      opened = true;
      socket.send(JSON.stringify(asked));
    };
    socket.onmessage = ({ data }) => {
      const event = parseEvent(String(data));
      if (event === null) return;
      tell(event);
      if (event.type === "done" || event.type === "error") finish();
    };
    socket.onclose = () => finish(stop.aborted ? stopped() : new ConnectionLost(opened));
    if (stop.aborted) finish(stopped());
    else stop.addEventListener("abort", cancel);
  });
}

export const stopped = () => new DOMException("stopped", "AbortError");
