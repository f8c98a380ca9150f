import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { ApiFailure } from "../api/http";
import type { Asked, Done } from "../api/types";
import { BEGINNING, type Listener, type Position } from "../stream/answer";
import { load } from "./storage";
import { Store } from "./store";
import { NO_PARAMS, type AssistantMessage } from "./types";

/** One answer under way, whose end the test says. */
interface Call {
  asked: Asked | null;
  from: Position;
  listener: Listener;
  stop: AbortSignal;
  end: (done: Done) => void;
  fail: (error: unknown) => void;
}

const done = (text: string): Done => ({
  type: "done", number: 9, id: "chat-1", model: "small", text, finish_reason: "stop", first_token_s: 0.1, seconds: 1,
  tokens_per_s: 3, usage: { prompt_tokens: 1, completion_tokens: 2, total_tokens: 3 },
});

describe("the store", () => {
  let calls: Call[];
  let store: Store;
  const open = () =>
    new Store(localStorage, (asked, from, listener, stop) =>
      new Promise((end, fail) => calls.push({ asked, from, listener, stop, end, fail })),
    );
  const settled = () => new Promise((resolve) => setTimeout(resolve, 0));
  const last = (id: string) => store.session(id)!.messages.at(-1) as AssistantMessage;

  beforeEach(() => {
    localStorage.clear();
    calls = [];
    store = open();
  });
  afterEach(() => store.close());

  it("answers, and keeps what was said", async () => {
    const id = store.create();
    store.send(id, "hi", { ...NO_PARAMS, seed: 3 });
    expect(calls[0]).toMatchObject({ asked: { messages: [{ role: "user", content: "hi" }], seed: 3 }, from: BEGINNING });
    calls[0]!.listener.reached({ answer: "chat-1", after: 0 });
    calls[0]!.listener.text("he");
    calls[0]!.listener.text("llo");
    calls[0]!.end(done("hello"));
    await settled();
    expect(last(id)).toMatchObject({ text: "hello", state: "done", facts: { tokens: 2, model: "small" } });
    expect(load(localStorage)).toEqual(store.snapshot().sessions);
  });

  it("does not answer twice at once, nor offers two empty chats", () => {
    const id = store.create();
    expect(store.create()).toBe(id);
    store.send(id, "one", NO_PARAMS);
    store.send(id, "two", NO_PARAMS);
    expect(calls).toHaveLength(1);
    expect(store.session(id)!.messages).toHaveLength(2);
  });

  it("takes answers up after a reload", () => {
    const id = store.create();
    store.send(id, "hi", NO_PARAMS);
    calls[0]!.listener.reached({ answer: "chat-1", after: 0 });
    store.close();
    store = open();
    store.resume();
    expect(calls[1]).toMatchObject({ asked: null, from: { answer: "chat-1", after: 0 } });
    expect(last(id).state).toBe("writing");
  });

  it("says so where there is no answer to take up", () => {
    const id = store.create();
    store.send(id, "hi", NO_PARAMS);
    store.close();
    store = open();
    store.resume();
    expect(last(id)).toMatchObject({ state: "failed", trouble: { advice: "Retry asks for it anew." } });
  });

  it("tells what went wrong and what to do, and asks again", async () => {
    const id = store.create();
    store.send(id, "hi", NO_PARAMS);
    calls[0]!.fail(new ApiFailure(429, "many wait", "queue_full"));
    await settled();
    expect(last(id).trouble).toEqual({ message: "many wait", advice: "Others are being answered. Retry in a few seconds." });
    store.retry(id, last(id).id, NO_PARAMS);
    expect(store.session(id)!.messages).toHaveLength(2);
    expect(calls[1]!.asked).toEqual({ messages: [{ role: "user", content: "hi" }] });
  });

  it("stops the answer of a chat that is edited or deleted", async () => {
    const id = store.create();
    store.send(id, "hi", NO_PARAMS);
    const question = store.session(id)!.messages[0]!;
    store.stop(id);
    expect(calls[0]!.stop.aborted).toBe(true);
    calls[0]!.fail(new DOMException("stopped", "AbortError"));
    await settled();
    expect(last(id).state).toBe("stopped");
    store.resend(id, question.id, "hello", NO_PARAMS);
    store.remove(id);
    expect(calls[1]!.stop.aborted).toBe(true);
    calls[1]!.end(done("too late"));
    await settled();
    expect(store.snapshot().sessions).toEqual([]);
    expect(load(localStorage)).toEqual([]);
  });
});
