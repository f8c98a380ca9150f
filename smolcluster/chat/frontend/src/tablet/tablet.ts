/** A tablet: dials the cluster, proves itself, gets its layers, computes, and comes back after whatever ended that. */
import { Compute, type Answer } from "./compute";
import { layersOf, type Ask, type Layers, type Piece } from "./download";
import { assignment, greet, type Me } from "./greet";
import { Ended, Link, REPLACED, type Socket } from "./link";
import { Code, Kind, nameOf, ProtocolError, type Assign, type Message } from "./messages";
import { Pace } from "./pace";
import { NoRoom, openStore, type Store } from "./store";
import { FIRST, noted, type Phase, type View } from "./view";

const FORMAT = "onnx";
const FIRST_PAUSE_MS = 500;
const LONGEST_PAUSE_MS = 15_000;

/** It cannot go on by itself. */
class Stuck extends Error {
  constructor(readonly phase: Phase, reason: string) {
    super(reason);
  }
}

export interface Surroundings {
  me: Me;
  /** Of this device, in the cluster's messages. */
  device: string;
  dial: () => Socket;
  compute?: Compute;
  store?: Promise<Store>;
}

export class Tablet {
  view: View = FIRST;
  private readonly listeners = new Set<() => void>();
  private readonly compute: Compute;
  private readonly store: Promise<Store>;
  private readonly pace = new Pace();
  private link: Link | null = null;
  private turn = 0;
  private requests = 0;
  private loading: { hash: string; done: Promise<void> } | null = null;
  private rouse: () => void = () => undefined;
  private pausing = false;
  private left = false;

  constructor(private readonly around: Surroundings) {
    this.compute = around.compute ?? new Compute();
    this.store = around.store ?? openStore();
    this.compute.answered = (answer) => this.answered(answer);
    this.compute.held = (sessions, cacheBytes) => this.show({ sessions, cacheBytes });
  }

  subscribe = (listener: () => void): (() => void) => {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  };

  show(change: Partial<View>, event = ""): void {
    this.view = { ...this.view, ...change };
    if (event !== "") this.view = noted(this.view, event);
    for (const listener of this.listeners) listener();
  }

  /** Goes on as long as the page. */
  async run(): Promise<never> {
    let tries = 0;
    for (;;) {
      const began = Date.now();
      let pause = 0;
      try {
        await this.once();
      } catch (error) {
        const stuck = stuckBy(error);
        if (stuck !== null) this.show({ phase: stuck.phase, reason: stuck.message }, stuck.message);
        // Nobody of the cluster has asked yet, and so nobody says a word: that is no loss.
        else if (!(this.view.phase === "waiting" && error instanceof Ended && error.silent)) {
          // Whoever was long at it begins again with short pauses.
          if (Date.now() - began > LONGEST_PAUSE_MS) tries = 0;
          pause = Math.min(FIRST_PAUSE_MS * 2 ** tries++, LONGEST_PAUSE_MS) * (0.75 + Math.random() / 2);
          const reason = error instanceof Error ? error.message : String(error);
          this.show({ phase: "lost", reason }, reason);
        }
        if (stuck !== null || this.left) await new Promise<void>((resolve) => (this.rouse = resolve));
        else if (pause > 0) await this.pause(pause);
      }
    }
  }

  /** A person says so: now, whatever it was that it waited for. */
  again = (): void => {
    this.left = false;
    this.link?.look();
    this.rouse();
  };

  /** The page was asleep, or the network is back: no need to wait for the end of a pause. */
  wake(): void {
    this.link?.look();
    if (this.pausing) this.rouse();
  }

  /** The page goes away: the cluster need not wait for it. */
  leave(): void {
    this.left = true;
    this.link?.refuse(Code.LEAVING, "the page was closed");
  }

  private async pause(ms: number): Promise<void> {
    this.pausing = true;
    await new Promise<void>((resolve) => {
      const timer = setTimeout(resolve, ms);
      this.rouse = () => {
        clearTimeout(timer);
        resolve();
      };
    });
    this.pausing = false;
  }

  private async once(): Promise<never> {
    if (this.view.phase !== "waiting" && this.view.phase !== "lost") this.show({ phase: "connecting", reason: "" });
    const link = await Link.open(this.around.dial());
    this.link = link;
    this.turn++;
    try {
      const cluster = await greet(link, this.around.me);
      this.show({ phase: "waiting", reason: "", cluster }, `Connected to ${cluster}.`);
      const assign = await assignment(link);
      this.show({ model: assign.model, layers: assign.layers });
      await this.prepare(link, assign);
      link.send({ kind: Kind.READY, device: this.device, format: FORMAT, hash: this.compute.hash, layers: assign.layers });
      this.show({ phase: "ready", reason: "" }, `Computing layers ${assign.layers} of ${assign.model}.`);
      for (;;) this.handle((await link.next()).message);
    } catch (error) {
      if (error instanceof ProtocolError) link.refuse(error.code, error.message);
      else if (error instanceof NoRoom) link.refuse(Code.WRONG_STAGE, error.message);
      throw error;
    } finally {
      link.close("");
      this.link = null;
      this.compute.clear();
      this.show({ sessions: 0, cacheBytes: 0 });
    }
  }

  /** Returns when the layers are loaded. The connection may end meanwhile; what was downloaded is kept. */
  private async prepare(link: Link, assign: Assign): Promise<void> {
    const hash = assign.packages[FORMAT];
    if (hash === undefined) {
      const reason = `The cluster has these layers as ${Object.keys(assign.packages).join(", ")}; a browser needs ${FORMAT}.`;
      link.refuse(Code.WRONG_STAGE, reason);
      throw new Stuck("failed", reason);
    }
    if (this.compute.hash !== hash) {
      if (this.loading?.hash !== hash) this.loading = { hash, done: this.load(await this.download(link, hash), hash, assign) };
      this.show({ phase: "loading" });
      try {
        // It may take longer than the connection lasts: the next one finds it further on.
        await Promise.race([this.loading.done, link.ended]);
      } catch (error) {
        if (error instanceof Stuck) link.refuse(Code.WRONG_STAGE, error.message);
        throw error;
      }
    }
    this.show({ how: this.compute.how, gpuError: this.compute.gpuError });
  }

  private async download(link: Link, hash: string): Promise<Layers> {
    this.show({ phase: "downloading", bytes: 0, total: 0 });
    const asked = new Map<number, (piece: Piece) => void>();
    link.pieces = (piece) => {
      asked.get(piece.request)?.(piece);
      asked.delete(piece.request);
    };
    const ask: Ask = (fetch) => {
      const request = (this.requests = (this.requests + 1) >>> 0);
      const piece = new Promise<Piece>((resolve) => asked.set(request, resolve));
      link.send({ kind: Kind.FETCH, request, ...fetch });
      return Promise.race([piece, link.ended]);
    };
    return layersOf(hash, await this.store, ask, (bytes, total) => this.show({ bytes, total }));
  }

  private async load({ file, sha256 }: Layers, hash: string, assign: Assign): Promise<void> {
    try {
      await this.compute.load(file, sha256, hash, assign);
    } catch (error) {
      await (await this.store).drop(hash);
      throw new Stuck("failed", `The layers could not be loaded: ${error instanceof Error ? error.message : String(error)}.`);
    } finally {
      this.loading = null;
    }
  }

  private get device(): string {
    return `${this.around.device}, ${this.compute.how}`.slice(0, 200);
  }

  private handle(message: Message): void {
    if (message.kind === Kind.OPEN) this.compute.open(this.turn, message.session, message.capacity);
    else if (message.kind === Kind.FORGET) this.compute.forget(this.turn, message.session);
    else if (message.kind === Kind.FORWARD) {
      const { kind: _, ...hidden } = message;
      this.compute.forward(this.turn, hidden);
    } else throw unexpected(message);
  }

  private answered({ turn, message, ms, tokens }: Answer): void {
    if (turn !== this.turn || this.link === null) return;
    this.link.sendBytes(message);
    const at = performance.now();
    this.pace.add(at, ms, tokens);
    this.show({
      tokens: this.view.tokens + tokens,
      tokensPerS: this.pace.perS ?? this.view.tokensPerS,
      msPerToken: this.pace.msPerToken ?? this.view.msPerToken,
      workedAt: at,
    });
  }
}

const unexpected = (message: Message) => new ProtocolError(`${nameOf(message)} came, which nobody waits for`);

function stuckBy(error: unknown): Stuck | null {
  if (error instanceof Stuck) return error;
  if (error instanceof NoRoom) return new Stuck("failed", error.message);
  if (!(error instanceof Ended)) return null;
  if (error.close === REPLACED) return new Stuck("replaced", "Another page or tablet computes these layers now.");
  if (error.code === Code.REFUSED) return new Stuck("refused", `The key is not that of this run: ${error.message}.`);
  if (error.code === Code.VERSION) return new Stuck("failed", `${error.message} Reload this page.`);
  if (error.code === Code.WRONG_STAGE || error.code === Code.NO_FILE) return new Stuck("failed", error.message);
  return null;
}
