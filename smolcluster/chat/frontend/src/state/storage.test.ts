import { beforeEach, describe, expect, it } from "vitest";
import { load, MOST_SESSIONS, parse, PREFIX, remove, save } from "./storage";
import type { Session } from "./types";

const session = (id: string, changed: number, text = "hi"): Session => ({
  id, title: id, named: false, changed, messages: [{ id: `${id}1`, role: "user", text }],
});

/** A browser with room for so many characters. */
class Small implements Storage {
  private readonly items = new Map<string, string>();
  constructor(private readonly room: number) {}
  get length() { return this.items.size; }
  clear() { this.items.clear(); }
  getItem(key: string) { return this.items.get(key) ?? null; }
  key(index: number) { return [...this.items.keys()][index] ?? null; }
  removeItem(key: string) { this.items.delete(key); }
  setItem(key: string, value: string) {
    const others = [...this.items].filter(([name]) => name !== key).reduce((sum, [, text]) => sum + text.length, 0);
    if (others + value.length > this.room) throw new DOMException("full", "QuotaExceededError");
    this.items.set(key, value);
  }
}

describe("storage", () => {
  beforeEach(() => localStorage.clear());

  it("gives back what was saved, the newest first", () => {
    expect(save(localStorage, session("a", 1))).toEqual([]);
    expect(save(localStorage, session("b", 2))).toEqual([]);
    expect(load(localStorage)).toEqual([session("b", 2), session("a", 1)]);
    remove(localStorage, "b");
    expect(load(localStorage)).toEqual([session("a", 1)]);
  });

  it("passes over what is no session", () => {
    for (const text of ["", "{", "null", "[]", '{"id": 1}', '{"id":"a","title":"a","changed":1,"messages":[{"role":"x"}]}']) {
      localStorage.setItem(`${PREFIX}x`, text);
      expect(load(localStorage)).toEqual([]);
    }
    localStorage.setItem("another", JSON.stringify(session("a", 1)));
    expect(load(localStorage)).toEqual([]);
    expect(parse(null)).toBeNull();
  });

  it("lets the oldest go when there are too many", () => {
    for (let number = 0; number < MOST_SESSIONS; number++) save(localStorage, session(`s${number}`, number));
    expect(save(localStorage, session("new", 1000))).toEqual(["s0"]);
    expect(load(localStorage)).toHaveLength(MOST_SESSIONS);
  });

  it("lets the oldest go when the browser has no room, and says when even that is not enough", () => {
    const small = new Small(400);
    save(small, session("a", 1, "x".repeat(100)));
    save(small, session("b", 2, "x".repeat(50)));
    expect(save(small, session("c", 3, "x".repeat(150)))).toEqual(["a"]);
    expect(load(small).map((one) => one.id)).toEqual(["c", "b"]);
    expect(save(small, session("d", 4, "x".repeat(1000)))).toBe(false);
  });
});
