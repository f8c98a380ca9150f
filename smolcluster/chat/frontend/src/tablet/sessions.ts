/** The sessions' caches and what the protocol says of them. Knows nothing of how layers are computed, or of the wire. */
import { Code, type Assign, type Hidden } from "./messages";

export const MOST_SESSIONS = 64;

/** Layers that compute; `Past` is what they keep of a session's tokens. */
export interface Layers<Past> {
  /** `past` is used up. The output is one row for each token, or one row of logits. */
  run(hidden: Hidden, past: Past | null): Promise<{ out: Float32Array; width: number; past: Past }>;
  bytesOf(past: Past): number;
  release(past: Past): void;
}

export class Refusal extends Error {
  constructor(readonly code: number, reason: string) {
    super(reason);
  }
}

interface Session<Past> {
  capacity: number;
  length: number;
  past: Past | null;
}

export class Sessions<Past> {
  private readonly held = new Map<bigint, Session<Past>>();

  constructor(private readonly layers: Layers<Past>, private readonly assign: Assign) {}

  get count(): number {
    return this.held.size;
  }

  /** Of all caches. */
  get bytes(): number {
    return [...this.held.values()].reduce((sum, { past }) => sum + (past === null ? 0 : this.layers.bytesOf(past)), 0);
  }

  /** One that has no room is unknown to its first forward, which is answered. */
  open(session: bigint, capacity: number): void {
    this.forget(session);
    if (this.held.size < MOST_SESSIONS && capacity >= 1 && capacity <= this.assign.context)
      this.held.set(session, { capacity, length: 0, past: null });
  }

  forget(session: bigint): void {
    const past = this.held.get(session)?.past ?? null;
    this.held.delete(session);
    if (past !== null) this.layers.release(past);
  }

  clear(): void {
    for (const session of [...this.held.keys()]) this.forget(session);
  }

  /** What the layers make of these tokens. Refusal: the session has ended. */
  async forward(hidden: Hidden): Promise<{ out: Float32Array; width: number }> {
    const session = this.held.get(hidden.session);
    if (session === undefined) throw new Refusal(Code.UNKNOWN_SESSION, "it is not open here");
    const { position, tokens, width } = hidden;
    try {
      if (width !== this.assign.width) throw new Refusal(Code.FAILED, `hidden states are ${width} wide, not ${this.assign.width}`);
      if (position !== session.length) throw new Refusal(Code.OUT_OF_ORDER, `position ${position} after ${session.length} tokens`);
      if (position + tokens > session.capacity) throw new Refusal(Code.FULL, `${position + tokens} tokens, with room for ${session.capacity}`);
      const past = session.past;
      session.past = null;
      const made = await this.layers.run(hidden, past);
      session.past = made.past;
      session.length += tokens;
      return made;
    } catch (error) {
      this.forget(hidden.session);
      throw error instanceof Refusal ? error : new Refusal(Code.FAILED, error instanceof Error ? error.message : String(error));
    }
  }
}
