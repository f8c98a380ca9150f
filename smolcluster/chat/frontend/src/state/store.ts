/** The sessions of this page, what is kept of them in the browser, and the answers under way. */
import { advice } from "../api/advice";
import { ApiFailure } from "../api/http";
import type { Asked } from "../api/types";
import { answer, BEGINNING, type Position } from "../stream/answer";
import { Frames } from "./frames";
import { asked } from "./params";
import { conversation, isWriting, reduce, type Action } from "./sessions";
import * as kept from "./storage";
import type { Facts, Params, Session } from "./types";

// While an answer is written it is stored that often: a reload then takes it up from there.
const STORE_MS = 1000;

export interface Snapshot {
  sessions: readonly Session[];
  /** Sessions whose answer has lost its connection, which is being looked for. */
  seeking: ReadonlySet<string>;
  /** The browser has no room, or none for us: what is said is lost with the page. */
  unkept: boolean;
}

export class Store {
  private now: Snapshot;
  private readonly listeners = new Set<() => void>();
  private readonly running = new Map<string, AbortController>();
  private readonly stored = new Map<string, number>();

  constructor(
    private readonly storage: Storage,
    private readonly follow: typeof answer = answer,
  ) {
    this.now = { sessions: kept.load(storage), seeking: new Set(), unkept: false };
    addEventListener("storage", this.changedElsewhere);
    addEventListener("pagehide", this.keepAll);
  }

  readonly subscribe = (listener: () => void) => {
    this.listeners.add(listener);
    return () => void this.listeners.delete(listener);
  };
  readonly snapshot = () => this.now;

  session = (id: string) => this.now.sessions.find((one) => one.id === id);

  create(): string {
    const empty = this.now.sessions.find((one) => one.messages.length === 0 && !one.named);
    if (empty) return empty.id;
    const session = newId();
    this.act({ type: "create", session, now: Date.now() });
    return session;
  }

  rename(session: string, title: string): void {
    this.act({ type: "rename", session, title });
  }

  remove(session: string): Session | undefined {
    const gone = this.session(session);
    this.stop(session);
    this.act({ type: "remove", session });
    kept.remove(this.storage, session);
    return gone;
  }

  restore(session: Session): void {
    this.act({ type: "put", session });
  }

  /** Say something; the answer comes by itself. */
  send(session: string, text: string, params: Params): void {
    if (isWriting(this.session(session))) return;
    const assistant = newId();
    this.act({ type: "send", session, text, user: newId(), assistant, now: Date.now() });
    const messages = conversation(this.session(session)?.messages ?? []);
    void this.run(session, assistant, { messages, ...asked(params) }, BEGINNING);
  }

  /** Say something again, perhaps in other words, in place of this message and all that came after it. */
  resend(session: string, message: string, text: string, params: Params): void {
    this.act({ type: "cut", session, message });
    this.send(session, text, params);
  }

  /** Ask for this answer anew. */
  retry(session: string, message: string, params: Params): void {
    const messages = this.session(session)?.messages ?? [];
    const question = messages[messages.findIndex((one) => one.id === message) - 1];
    if (question?.role === "user") this.resend(session, question.id, question.text, params);
  }

  stop(session: string): void {
    this.running.get(session)?.abort();
  }

  /** Take up the answers that were being written when the page was left. */
  resume(): void {
    for (const session of this.now.sessions) {
      const message = isWriting(session);
      if (message === undefined || this.running.has(session.id)) continue;
      if (message.at?.answer != null) void this.run(session.id, message.id, null, message.at);
      else this.fail(session.id, message.id, new ApiFailure(0, "The page was left before the answer came.", "left"));
    }
  }

  close(): void {
    removeEventListener("storage", this.changedElsewhere);
    removeEventListener("pagehide", this.keepAll);
  }

  private async run(session: string, message: string, question: Asked | null, from: Position): Promise<void> {
    const stop = new AbortController();
    this.running.set(session, stop);
    let at = from;
    const frames = new Frames((text) => this.act({ type: "append", session, message, text, at }));
    try {
      const done = await this.follow(
        question,
        from,
        {
          text: (piece) => frames.add(piece),
          reached: (position) => {
            // Its name is noted at once, so that a reload before the first word finds the answer again.
            const named = at.answer === null;
            at = position;
            if (!named) return;
            this.act({ type: "append", session, message, text: "", at });
            this.keep(session);
          },
          connected: (there) => this.seek(session, !there),
        },
        stop.signal,
      );
      frames.flush();
      const facts: Facts = {
        model: done.model,
        finish: done.finish_reason,
        tokens: done.usage.completion_tokens,
        seconds: done.seconds,
        firstToken: done.first_token_s,
        tokensPerSecond: done.tokens_per_s,
      };
      this.act({ type: "end", session, message, facts, text: done.text });
    } catch (error) {
      frames.flush();
      if (stop.signal.aborted) this.act({ type: "stop", session, message });
      else this.fail(session, message, error);
    } finally {
      this.running.delete(session);
      this.seek(session, false);
    }
  }

  private fail(session: string, message: string, error: unknown): void {
    const failure = error instanceof ApiFailure ? error : new ApiFailure(0, String(error));
    this.act({ type: "fail", session, message, trouble: { message: failure.message, advice: advice(failure) } });
  }

  private seek(session: string, seeking: boolean): void {
    if (this.now.seeking.has(session) === seeking) return;
    const all = new Set(this.now.seeking);
    if (seeking) all.add(session);
    else all.delete(session);
    this.change({ seeking: all });
  }

  private act(action: Action): void {
    this.change({ sessions: reduce(this.now.sessions, action) });
    if (action.type === "remove" || action.type === "create") return;
    const id = action.type === "put" ? action.session.id : action.session;
    if (action.type !== "append" || Date.now() - (this.stored.get(id) ?? 0) > STORE_MS) this.keep(id);
  }

  private keep(id: string): void {
    const session = this.session(id);
    if (session === undefined) return;
    this.stored.set(id, Date.now());
    const gone = kept.save(this.storage, session);
    const dropped = gone === false ? [] : gone;
    this.change({
      unkept: gone === false,
      ...(dropped.length ? { sessions: this.now.sessions.filter((one) => !dropped.includes(one.id)) } : {}),
    });
  }

  private readonly keepAll = () => {
    for (const id of this.running.keys()) this.keep(id);
  };

  /** Another tab has written. What is being answered here is ours. */
  private readonly changedElsewhere = ({ key, newValue }: StorageEvent) => {
    const id = key?.startsWith(kept.PREFIX) ? key.slice(kept.PREFIX.length) : null;
    if (id === null || this.running.has(id)) return;
    const session = kept.parse(newValue);
    this.change({
      sessions:
        session === null
          ? reduce(this.now.sessions, { type: "remove", session: id })
          : reduce(this.now.sessions, { type: "put", session }),
    });
  };

  private change(part: Partial<Snapshot>): void {
    this.now = { ...this.now, ...part };
    for (const listener of this.listeners) listener();
  }
}

/** Not randomUUID: that is for secure origins only, and a phone reaches us by plain HTTP. */
export function newId(): string {
  return Array.from(crypto.getRandomValues(new Uint8Array(12)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}
