/** One WebSocket as messages. Answers signs of life by itself, ends after ten seconds of silence, and says how it ended. */
import { Code, decode, encode, Kind, ProtocolError, type Message } from "./messages";

export const OPEN_MS = 8000;
export const SILENCE_MS = 10_000;
const LOOK_MS = 1000;
// What the cluster closes a page with whose place a newer one has taken.
export const REPLACED = 4001;

/** Why a connection ended, in words. `code`: of the ERROR that ended it, if one did; `close`: of the WebSocket. */
export class Ended extends Error {
  constructor(message: string, readonly opened: boolean, readonly code = 0, readonly close = 0) {
    super(message);
  }
}

export interface Heard {
  message: Message;
  data: Uint8Array;
}

/** What of a WebSocket is used. */
export type Socket = Pick<WebSocket, "send" | "close" | "bufferedAmount"> & {
  binaryType: BinaryType;
  onopen: (() => void) | null;
  onmessage: ((event: { data: unknown }) => void) | null;
  onclose: ((event: { code: number }) => void) | null;
};

export class Link {
  /** Rejects, with Ended, when it is over. */
  readonly ended: Promise<never>;
  private finish!: (error: Ended) => void;
  /** Takes the pieces of files. */
  pieces: (piece: Extract<Message, { kind: typeof Kind.PIECE }>) => void = () => undefined;
  private readonly waiting: Heard[] = [];
  private wake: ((heard: Heard) => void) | null = null;
  private heardAt = Date.now();
  private opened = false;
  private over = false;
  private timer: ReturnType<typeof setInterval> | undefined;

  private constructor(private readonly socket: Socket) {
    this.ended = new Promise((_, reject) => {
      this.finish = (error) => {
        if (this.over) return;
        this.over = true;
        clearInterval(this.timer);
        socket.onopen = socket.onmessage = socket.onclose = null;
        socket.close();
        reject(error);
      };
    });
    this.ended.catch(() => undefined);
  }

  /** An open one. Ended, if it cannot be reached within OPEN_MS. */
  static open(socket: Socket): Promise<Link> {
    const link = new Link(socket);
    socket.binaryType = "arraybuffer";
    const opened = new Promise<Link>((resolve) => {
      socket.onopen = () => {
        link.opened = true;
        link.heardAt = Date.now();
        resolve(link);
      };
    });
    socket.onmessage = ({ data }) => link.hear(data);
    socket.onclose = ({ code }) => link.finish(new Ended("The connection was lost.", link.opened, 0, code));
    // A browser slows the timers of a page in the background, but its clock goes on.
    link.timer = setInterval(() => link.look(), LOOK_MS);
    return Promise.race([opened, link.ended]);
  }

  send(message: Message): void {
    this.sendBytes(encode(message));
  }

  sendBytes(data: Uint8Array<ArrayBuffer>): void {
    if (!this.over) this.socket.send(data);
  }

  /** The next message that is not for the link itself. */
  next(): Promise<Heard> {
    const first = this.waiting.shift();
    if (first !== undefined) return Promise.resolve(first);
    return Promise.race([new Promise<Heard>((resolve) => (this.wake = resolve)), this.ended]);
  }

  /** After a sleep: whether the other end was silent for too long. */
  look(): void {
    const patience = this.opened ? SILENCE_MS : OPEN_MS;
    if (Date.now() - this.heardAt > patience)
      this.finish(new Ended(this.opened ? "Nothing was heard of the cluster for ten seconds." : "The cluster does not answer.", this.opened));
  }

  /** Say why, and hang up. */
  refuse(code: number, reason: string): void {
    this.send({ kind: Kind.ERROR, request: 0, session: 0n, code, reason });
    this.close(reason);
  }

  close(reason: string): void {
    this.finish(new Ended(reason, this.opened));
  }

  private hear(data: unknown): void {
    this.heardAt = Date.now();
    try {
      if (!(data instanceof ArrayBuffer)) throw new ProtocolError("the cluster sent text");
      const message = decode(data);
      if (message.kind === Kind.PING) this.send({ kind: Kind.PONG, number: message.number });
      else if (message.kind === Kind.ERROR && message.code < Code.UNKNOWN_SESSION)
        this.finish(new Ended(message.reason, true, message.code));
      else if (message.kind === Kind.PIECE) this.pieces(message);
      else if (message.kind !== Kind.PONG) this.pass({ message, data: new Uint8Array(data) });
    } catch (error) {
      const { code, message } = error instanceof ProtocolError ? error : { code: Code.BAD_MESSAGE, message: String(error) };
      this.send({ kind: Kind.ERROR, request: 0, session: 0n, code, reason: message });
      this.finish(new Ended(`The cluster sent something wrong: ${message}.`, true, code === Code.VERSION ? code : 0));
    }
  }

  private pass(heard: Heard): void {
    const wake = this.wake;
    this.wake = null;
    if (wake === null) this.waiting.push(heard);
    else wake(heard);
  }
}
