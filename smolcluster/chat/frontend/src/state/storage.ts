/** Sessions in localStorage, each under a key of its own, so that two tabs write over each other's only where they talk
 * in the same one. Bounded: when there are too many, or the browser has no room, the oldest go.
 */
import { newestFirst } from "./sessions";
import type { Session } from "./types";

export const PREFIX = "smolcluster.session.";
export const MOST_SESSIONS = 200;
// UTF-16 units; browsers give an origin about five million.
export const MOST_UNITS = 4_000_000;

/** The browser's, or one that lasts as long as the page where it gives none (private windows, strict settings). */
export function browserStorage(): Storage {
  try {
    localStorage.getItem(PREFIX);
    return localStorage;
  } catch {
    return new Passing();
  }
}

/** Has no room for sessions, and says so by refusing them. */
class Passing implements Storage {
  readonly length = 0;
  clear = () => undefined;
  getItem = () => null;
  key = () => null;
  removeItem = () => undefined;
  setItem = () => {
    throw new Error("this browser keeps nothing");
  };
}

export function load(storage: Storage): Session[] {
  const sessions: Session[] = [];
  for (const key of keys(storage)) {
    const session = parse(storage.getItem(key));
    if (session !== null) sessions.push(session);
  }
  return sessions.sort(newestFirst);
}

/** A stored session; null for what is none, whoever wrote it. */
export function parse(text: string | null): Session | null {
  try {
    const value = JSON.parse(text ?? "null") as Partial<Session> | null;
    const good =
      value !== null &&
      typeof value.id === "string" &&
      typeof value.title === "string" &&
      typeof value.changed === "number" &&
      Array.isArray(value.messages) &&
      value.messages.every((one) => typeof one?.id === "string" && typeof one.text === "string" && /^(user|assistant)$/.test(one.role));
    return good ? (value as Session) : null;
  } catch {
    return null;
  }
}

/** Write one. Returns the ids of sessions that had to go for it; `false` if there is no room even so. */
export function save(storage: Storage, session: Session): string[] | false {
  const own = PREFIX + session.id;
  const text = JSON.stringify(session);
  const sizes = new Map(keys(storage).map((key) => [key, storage.getItem(key)?.length ?? 0]));
  sizes.set(own, text.length);
  let units = [...sizes.values()].reduce((sum, size) => sum + size, 0);
  // Read only if need be: this is done while answers stream.
  let others: Session[] | undefined;
  const gone: string[] = [];
  const dropOldest = () => {
    others ??= load(storage).filter((one) => one.id !== session.id);
    const oldest = others.pop();
    if (oldest === undefined) return false;
    const key = PREFIX + oldest.id;
    storage.removeItem(key);
    units -= sizes.get(key) ?? 0;
    sizes.delete(key);
    gone.push(oldest.id);
    return true;
  };
  while ((sizes.size > MOST_SESSIONS || units > MOST_UNITS) && dropOldest());
  for (;;) {
    try {
      storage.setItem(own, text);
      return gone;
    } catch {
      if (!dropOldest()) return false;
    }
  }
}

export const remove = (storage: Storage, id: string) => storage.removeItem(PREFIX + id);

function keys(storage: Storage): string[] {
  const all = Array.from({ length: storage.length }, (_, index) => storage.key(index) ?? "");
  return all.filter((key) => key.startsWith(PREFIX));
}
