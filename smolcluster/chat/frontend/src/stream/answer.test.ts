import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import type { ChatEvent } from "../api/types";
import { answer, BEGINNING, type Position } from "./answer";
import { parseEvent } from "./events";
import { parseFrame, serverSent } from "./sse";
import { socketUrl } from "./socket";

const ASKED = { messages: [{ role: "user" as const, content: "hi" }] };
const begin = { type: "begin", number: 0, id: "chat-1", model: "small", prompt_tokens: 1 } as ChatEvent;
const token = (number: number, text: string) => ({ type: "token", number, text }) as ChatEvent;
const done = (number: number, text: string, finish_reason = "stop") =>
  ({ type: "done", number, id: "chat-1", model: "small", text, finish_reason }) as ChatEvent;

/** What a server does with each connection, in order: tells these events, then ends it or goes on waiting. */
interface Turn {
  tells?: ChatEvent[];
  then?: "close" | "wait" | "refuse";
}

class FakeSocket {
  static turns: Turn[] = [];
  static sent: unknown[] = [];
  onopen: (() => void) | null = null;
  onmessage: ((event: { data: string }) => void) | null = null;
  onclose: (() => void) | null = null;

  constructor(readonly url: string) {
    const { tells = [], then = "wait" } = FakeSocket.turns.shift() ?? {};
    queueMicrotask(() => {
      if (then !== "refuse") this.onopen?.();
      for (const event of tells) this.onmessage?.({ data: JSON.stringify(event) });
      if (then !== "wait") this.onclose?.();
    });
  }
  send(text: string) {
    FakeSocket.sent.push(JSON.parse(text));
    if (JSON.parse(text).type === "cancel") this.onmessage?.({ data: JSON.stringify(done(9, "one", "cancelled")) });
  }
  close() {}
}

/** Server-sent events; `broken`: the connection dies after them. */
const events = (told: ChatEvent[], broken = false) =>
  new Response(
    new ReadableStream({
      start(controller) {
        const frames = told.map((event) => `id: ${event.number}\ndata: ${JSON.stringify(event)}\n\n`).join(": ping\n\n");
        controller.enqueue(new TextEncoder().encode(frames));
      },
      pull(controller) {
        if (broken) controller.error(new TypeError("network error"));
        else controller.close();
      },
    }, { highWaterMark: 1 }),
  );

describe("an answer", () => {
  let fetched: string[];
  let answers: (() => Response)[];
  let told: string;
  let connections: boolean[];
  let reached: Position;
  const listener = {
    text: (piece: string) => void (told += piece),
    reached: (at: Position) => void (reached = at),
    connected: (there: boolean) => void connections.push(there),
  };
  const run = (from = BEGINNING, asked: typeof ASKED | null = ASKED, stop = new AbortController()) =>
    answer(asked, from, listener, stop.signal);

  beforeEach(() => {
    vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout", "Date"] });
    [fetched, answers, told, connections, reached] = [[], [], "", [], BEGINNING];
    FakeSocket.turns = [];
    FakeSocket.sent = [];
    vi.stubGlobal("WebSocket", FakeSocket);
    vi.stubGlobal("fetch", async (url: string, init?: RequestInit) => {
      fetched.push(`${init?.method ?? "GET"} ${url}`);
      const next = answers.shift();
      if (next === undefined) throw new TypeError("network error");
      return next();
    });
  });
  afterEach(() => {
    vi.useRealTimers();
    vi.unstubAllGlobals();
  });
  /** The promise, with all pauses passed over. */
  const soon = async <T>(promise: Promise<T>): Promise<T> => {
    const settled = promise.then((value) => ({ value }), (error: unknown) => ({ error }));
    for (let turn = 0; turn < 60; turn++) await vi.advanceTimersByTimeAsync(2000);
    const end = await settled;
    if ("error" in end) throw end.error;
    return end.value;
  };

  it("comes over a WebSocket", async () => {
    FakeSocket.turns = [{ tells: [begin, token(1, "one "), token(2, "two"), done(3, "one two")] }];
    expect(await soon(run())).toMatchObject({ text: "one two" });
    expect(told).toBe("one two");
    expect(reached).toEqual({ answer: "chat-1", after: 3 });
    expect(FakeSocket.sent).toEqual([ASKED]);
    expect(fetched).toEqual([]);
  });

  it("comes as server-sent events where no WebSocket gets through", async () => {
    FakeSocket.turns = [{ then: "refuse" }];
    answers = [() => events([begin, token(1, "one"), done(2, "one")])];
    expect(await soon(run())).toMatchObject({ text: "one" });
    expect(told).toBe("one");
    expect(fetched).toEqual(["POST /api/chat"]);
  });

  it("is taken up where it was, as often as need be, and nothing is told twice", async () => {
    FakeSocket.turns = [{ tells: [begin, token(1, "one ")], then: "close" }];
    answers = [
      () => { throw new TypeError("network error"); },
      () => events([token(1, "one "), token(2, "two ")], true),
      () => events([token(3, "three"), done(4, "one two three")]),
    ];
    expect(await soon(run())).toMatchObject({ text: "one two three" });
    expect(told).toBe("one two three");
    expect(fetched).toEqual([
      "GET /api/answers/chat-1/events?after=1",
      "GET /api/answers/chat-1/events?after=1",
      "GET /api/answers/chat-1/events?after=2",
    ]);
    expect(connections).toContain(false);
    expect(connections.at(-1)).toBe(true);
    expect(FakeSocket.sent).toEqual([ASKED]);
  });

  it("is taken up after a reload", async () => {
    answers = [() => events([token(5, "more"), done(6, "all")])];
    expect(await soon(run({ answer: "chat-1", after: 4 }, null))).toMatchObject({ text: "all" });
    expect(told).toBe("more");
    expect(fetched).toEqual(["GET /api/answers/chat-1/events?after=4"]);
  });

  it("is asked for again if the connection was lost before it had begun", async () => {
    FakeSocket.turns = [{ then: "close" }, { tells: [begin, done(1, "yes")] }];
    expect(await soon(run())).toMatchObject({ text: "yes" });
    expect(FakeSocket.sent).toEqual([ASKED, ASKED]);
  });

  it("fails when the server has forgotten it", async () => {
    FakeSocket.turns = [{ tells: [begin, token(1, "one")], then: "close" }];
    const error = { message: "not here", type: "invalid_request_error", param: "answer", code: "answer_not_found" };
    answers = [() => Response.json({ error }, { status: 404 })];
    await expect(soon(run())).rejects.toMatchObject({ code: "answer_not_found", message: "not here" });
  });

  it("fails after a minute without any server", async () => {
    FakeSocket.turns = [{ tells: [begin], then: "close" }];
    await expect(soon(run())).rejects.toMatchObject({ code: "connection_lost" });
    expect(fetched.length).toBeGreaterThan(10);
  });

  it("fails with the server's own words", async () => {
    const error = { message: "pi5 was lost", type: "server_error", param: null, code: "stage_lost" };
    FakeSocket.turns = [{ tells: [begin, { type: "error", number: 1, error }] }];
    await expect(soon(run())).rejects.toMatchObject({ message: "pi5 was lost", code: "stage_lost" });
    FakeSocket.turns = [{ then: "refuse" }];
    answers = [() => Response.json({ error: { ...error, code: "invalid_api_key" } }, { status: 401 })];
    await expect(soon(run())).rejects.toMatchObject({ status: 401, code: "invalid_api_key" });
  });

  it("is stopped over its socket", async () => {
    const stop = new AbortController();
    FakeSocket.turns = [{ tells: [begin, token(1, "one")] }];
    const running = run(BEGINNING, ASKED, stop);
    await vi.advanceTimersByTimeAsync(10);
    stop.abort();
    expect(await soon(running)).toMatchObject({ finish_reason: "cancelled" });
    expect(FakeSocket.sent).toEqual([ASKED, { type: "cancel" }]);
  });

  it("is stopped while its connection is looked for, and the server is told", async () => {
    const stop = new AbortController();
    FakeSocket.turns = [{ tells: [begin, token(1, "one")], then: "close" }];
    const running = run(BEGINNING, ASKED, stop);
    await vi.advanceTimersByTimeAsync(10);
    stop.abort();
    await expect(soon(running)).rejects.toMatchObject({ name: "AbortError" });
    expect(fetched.at(-1)).toBe("DELETE /api/answers/chat-1");
  });
});

describe("what comes", () => {
  it("is read frame by frame, however it was cut", async () => {
    const text = 'id: 1\ndata: {"a":\ndata: "é"}\n\n: ping\n\ndata: x\r\n\r\n';
    const bytes = new TextEncoder().encode(text);
    const body = new ReadableStream({
      start(controller) {
        for (const byte of bytes) controller.enqueue(new Uint8Array([byte]));
        controller.close();
      },
    });
    const read = [];
    for await (const event of serverSent(body)) read.push(event);
    expect(read).toEqual([{ id: "1", data: '{"a":\n"é"}' }, { id: null, data: "x" }]);
    expect(parseFrame(": ping")).toBeNull();
  });

  it("is passed over where it is not known", () => {
    expect(parseEvent('{"type": "new"}')).toBeNull();
    expect(parseEvent("[")).toBeNull();
    expect(parseEvent("null")).toBeNull();
    expect(parseEvent('{"type": "token", "number": 1, "text": "a"}')).toEqual({ type: "token", number: 1, text: "a" });
  });

  it("comes from this origin", () => {
    expect(socketUrl({ protocol: "https:", host: "a:1" })).toBe("wss://a:1/api/ws/chat");
    expect(socketUrl({ protocol: "http:", host: "[::1]:2" })).toBe("ws://[::1]:2/api/ws/chat");
  });
});
