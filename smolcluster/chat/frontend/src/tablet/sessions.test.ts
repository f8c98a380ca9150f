import { describe, expect, it } from "vitest";
import { Code, type Assign, type Hidden } from "./messages";
import { MOST_SESSIONS, Refusal, Sessions, type Layers } from "./sessions";

const ASSIGN: Assign = { context: 8, dtype: "fp32", last: false, layers: "4:8", model: "small", out_width: 2, packages: {}, width: 2 };

/** Keeps how many tokens there were; fails when it is told to. */
class Counting implements Layers<number> {
  broken = false;
  released: number[] = [];
  async run({ tokens }: Hidden, past: number | null) {
    if (this.broken) throw new Error("no memory");
    return { out: new Float32Array(2 * tokens), width: 2, past: (past ?? 0) + tokens };
  }
  bytesOf = (past: number) => 10 * past;
  release = (past: number) => void this.released.push(past);
}

const tokens = (session: bigint, position: number, count: number, width = 2): Hidden => ({
  request: 1, session, position, tokens: count, width, half: false, values: new Uint8Array(4 * count * width),
}); // prettier-ignore

async function refusal(promise: Promise<unknown>): Promise<[number, string]> {
  const error: unknown = await promise.then(() => null, (error: unknown) => error);
  expect(error).toBeInstanceOf(Refusal);
  return [(error as Refusal).code, (error as Refusal).message];
}

describe("sessions", () => {
  it("are apart, and each position follows", async () => {
    const layers = new Counting();
    const sessions = new Sessions(layers, ASSIGN);
    sessions.open(1n, 8);
    sessions.open(2n, 8);
    await sessions.forward(tokens(1n, 0, 3));
    await sessions.forward(tokens(2n, 0, 1));
    await sessions.forward(tokens(1n, 3, 1));
    expect([sessions.count, sessions.bytes]).toEqual([2, 50]);
    expect(await refusal(sessions.forward(tokens(1n, 3, 1)))).toEqual([Code.OUT_OF_ORDER, "position 3 after 4 tokens"]);
    expect(layers.released).toEqual([4]);
    expect(await refusal(sessions.forward(tokens(1n, 4, 1)))).toEqual([Code.UNKNOWN_SESSION, "it is not open here"]);
    await sessions.forward(tokens(2n, 1, 1));
    sessions.clear();
    expect(layers.released).toEqual([4, 2]);
  });

  it("end when they are full", async () => {
    const sessions = new Sessions(new Counting(), ASSIGN);
    sessions.open(1n, 3);
    await sessions.forward(tokens(1n, 0, 3));
    expect(await refusal(sessions.forward(tokens(1n, 3, 1)))).toEqual([Code.FULL, "4 tokens, with room for 3"]);
  });

  it("end when the layers cannot be computed", async () => {
    const layers = new Counting();
    const sessions = new Sessions(layers, ASSIGN);
    sessions.open(1n, 8);
    expect(await refusal(sessions.forward(tokens(1n, 0, 1, 3)))).toEqual([Code.FAILED, "hidden states are 3 wide, not 2"]);
    sessions.open(1n, 8);
    layers.broken = true;
    expect(await refusal(sessions.forward(tokens(1n, 0, 1)))).toEqual([Code.FAILED, "no memory"]);
    expect(sessions.count).toBe(0);
  });

  it("are unknown where there is no room for them", async () => {
    const sessions = new Sessions(new Counting(), ASSIGN);
    sessions.open(1n, 9);
    expect(sessions.count).toBe(0);
    for (let session = 0n; session <= BigInt(MOST_SESSIONS); session++) sessions.open(session, 1);
    expect(sessions.count).toBe(MOST_SESSIONS);
    expect(await refusal(sessions.forward(tokens(BigInt(MOST_SESSIONS), 0, 1)))).toEqual([Code.UNKNOWN_SESSION, "it is not open here"]);
  });

  it("begin anew when they are opened again", async () => {
    const layers = new Counting();
    const sessions = new Sessions(layers, ASSIGN);
    sessions.open(1n, 8);
    await sessions.forward(tokens(1n, 0, 3));
    sessions.open(1n, 8);
    expect(layers.released).toEqual([3]);
    await sessions.forward(tokens(1n, 0, 1));
  });
});
