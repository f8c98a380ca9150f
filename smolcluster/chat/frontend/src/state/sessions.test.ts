import { describe, expect, it } from "vitest";
import { asJson, asMarkdown, fileName } from "./export";
import { conversation, reduce, titleOf, type Action } from "./sessions";
import type { Facts, Message, Session } from "./types";

const FACTS: Facts = { model: "small", finish: "stop", tokens: 2, seconds: 1, firstToken: 0.1, tokensPerSecond: 2 };
const at = (after: number) => ({ answer: "chat-1", after });
const play = (...actions: Action[]) => actions.reduce(reduce, [] as readonly Session[]);
const BEGUN: Action[] = [
  { type: "create", session: "s", now: 1 },
  { type: "send", session: "s", text: "What is a lighthouse?\nReally.", user: "u1", assistant: "a1", now: 2 },
];

describe("sessions", () => {
  it("take their name from the first message, until a person names them", () => {
    expect(play(...BEGUN)[0]?.title).toBe("What is a lighthouse?");
    expect(play(BEGUN[0]!, { type: "rename", session: "s", title: " Mine " }, BEGUN[1]!)[0]?.title).toBe("Mine");
    expect(play(BEGUN[0]!, { type: "rename", session: "s", title: "  " })[0]?.named).toBe(false);
    expect(titleOf("x".repeat(60))).toBe(`${"x".repeat(47)}…`);
    expect(titleOf(" \n ")).toBe("New chat");
  });

  it("put pieces together, and the whole text at the end makes good what was missed", () => {
    const done = play(
      ...BEGUN,
      { type: "append", session: "s", message: "a1", text: "A to", at: at(1) },
      { type: "append", session: "s", message: "a1", text: "wer", at: at(2) },
    );
    expect(done[0]?.messages[1]).toEqual({ id: "a1", role: "assistant", text: "A tower", state: "writing", at: at(2) });
    const end = reduce(done, { type: "end", session: "s", message: "a1", facts: FACTS, text: "A tower." });
    expect(end[0]?.messages[1]).toEqual({ id: "a1", role: "assistant", text: "A tower.", state: "done", facts: FACTS });
    // What comes late changes nothing.
    expect(reduce(end, { type: "append", session: "s", message: "a1", text: "!", at: at(9) })).toEqual(end);
    expect(reduce(end, { type: "stop", session: "s", message: "a1" })).toEqual(end);
  });

  it("keep what was said when an answer is stopped or fails", () => {
    const begun = play(...BEGUN, { type: "append", session: "s", message: "a1", text: "A", at: at(1) });
    const stopped = reduce(begun, { type: "end", session: "s", message: "a1", facts: { ...FACTS, finish: "cancelled" }, text: "A" });
    expect(stopped[0]?.messages[1]).toMatchObject({ text: "A", state: "stopped" });
    const trouble = { message: "lost", advice: "retry" };
    expect(reduce(begun, { type: "fail", session: "s", message: "a1", trouble })[0]?.messages[1]).toEqual({
      id: "a1", role: "assistant", text: "A", state: "failed", trouble,
    });
  });

  it("are cut where a message is sent anew", () => {
    const two = play(...BEGUN, { type: "end", session: "s", message: "a1", facts: FACTS, text: "A" }, { ...BEGUN[1]!, user: "u2", assistant: "a2" } as Action);
    expect(reduce(two, { type: "cut", session: "s", message: "u2" })[0]?.messages.map((one) => one.id)).toEqual(["u1", "a1"]);
    expect(reduce(two, { type: "cut", session: "s", message: "none" })).toEqual(two);
  });

  it("show the model questions and answers in turns", () => {
    const messages: Message[] = [
      { id: "1", role: "user", text: "one" },
      { id: "2", role: "assistant", text: "", state: "failed" },
      { id: "3", role: "user", text: "two" },
      { id: "4", role: "assistant", text: "so", state: "stopped" },
      { id: "5", role: "user", text: "three" },
      { id: "6", role: "assistant", text: "", state: "writing" },
    ];
    expect(conversation(messages)).toEqual([
      { role: "user", content: "two" },
      { role: "assistant", content: "so" },
      { role: "user", content: "three" },
    ]);
  });
});

describe("a saved session", () => {
  const session = play(...BEGUN, { type: "end", session: "s", message: "a1", facts: FACTS, text: "A **tower**" })[0]!;

  it("is Markdown", () => {
    expect(asMarkdown(session)).toBe(
      "# What is a lighthouse?\n\n## You\n\nWhat is a lighthouse?\nReally.\n\n## small\n\nA **tower**\n",
    );
  });
  it("is JSON", () => {
    expect(JSON.parse(asJson(session))).toEqual({
      title: "What is a lighthouse?",
      changed: "1970-01-01T00:00:00.002Z",
      messages: [
        { role: "user", content: "What is a lighthouse?\nReally." },
        { role: "assistant", content: "A **tower**", facts: FACTS },
      ],
    });
  });
  it("has a name for a file", () => {
    expect(fileName(session, "md")).toBe("what-is-a-lighthouse.md");
    expect(fileName({ ...session, title: "../ ?" }, "json")).toBe("chat.json");
  });
});
