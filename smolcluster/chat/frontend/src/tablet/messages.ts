/** What a tablet and the cluster say to each other, and its bytes: documentation/tablet.md. The other end of it is
 * smolcluster/tablet/messages.py; tests/tablet/golden holds both to the same bytes.
 */
export const VERSION = 1;
export const MOST_SMALL = 16 << 10;
export const PROOF_BYTES = 32;
const MOST_REASON = 1000;
const HEAD = 4;
export const HIDDEN_HEAD = 32;
const PIECE_HEAD = 24;

export const Kind = {
  HELLO: 1, CHALLENGE: 2, PROOF: 3, WELCOME: 4, ASSIGN: 5, READY: 6, FETCH: 7, PIECE: 8,
  OPEN: 16, FORWARD: 17, RESULT: 18, FORGET: 19, PING: 32, PONG: 33, ERROR: 34,
} as const;

export const Code = {
  VERSION: 1, REFUSED: 2, WRONG_STAGE: 3, BAD_MESSAGE: 4, LEAVING: 5, NO_FILE: 6,
  UNKNOWN_SESSION: 16, OUT_OF_ORDER: 17, FULL: 18, FAILED: 19,
} as const;

/** The other end sent what is no message, or one that was not due. */
export class ProtocolError extends Error {
  constructor(message: string, readonly code: number = Code.BAD_MESSAGE) {
    super(message);
  }
}

export interface Greeting {
  name: string;
  nonce: string;
  role: "cluster" | "tablet";
  run: string;
}

export interface Assign {
  context: number;
  dtype: "fp32" | "fp16";
  last: boolean;
  layers: string;
  model: string;
  out_width: number;
  /** By format the hash of the exported stage. */
  packages: Record<string, string>;
  width: number;
}

export interface Ready {
  device: string;
  format: string;
  hash: string;
  layers: string;
}

/** Hidden states: `values` are `tokens` x `width` numbers, fp16 if `half`, as they travel. */
export interface Hidden {
  request: number;
  session: bigint;
  position: number;
  tokens: number;
  width: number;
  half: boolean;
  values: Uint8Array;
}

export type Message =
  | ({ kind: typeof Kind.HELLO } & Greeting)
  | ({ kind: typeof Kind.CHALLENGE } & Greeting)
  | { kind: typeof Kind.PROOF; digest: Uint8Array }
  | { kind: typeof Kind.WELCOME; digest: Uint8Array }
  | ({ kind: typeof Kind.ASSIGN } & Assign)
  | ({ kind: typeof Kind.READY } & Ready)
  | { kind: typeof Kind.FETCH; request: number; offset: number; most: number; format: string; path: string }
  | { kind: typeof Kind.PIECE; request: number; offset: number; size: number; bytes: Uint8Array }
  | { kind: typeof Kind.OPEN; capacity: number; session: bigint }
  | ({ kind: typeof Kind.FORWARD } & Hidden)
  | ({ kind: typeof Kind.RESULT } & Hidden)
  | { kind: typeof Kind.FORGET; session: bigint }
  | { kind: typeof Kind.PING; number: number }
  | { kind: typeof Kind.PONG; number: number }
  | { kind: typeof Kind.ERROR; request: number; session: bigint; code: number; reason: string };

const KINDS = new Map<number, string>(Object.entries(Kind).map(([name, kind]) => [kind, name]));
const CODES = new Set<number>(Object.values(Code));

export const nameOf = (message: Message): string => KINDS.get(message.kind) ?? "";

/** Its bytes. */
export function encode(message: Message): Uint8Array<ArrayBuffer> {
  switch (message.kind) {
    case Kind.HELLO:
    case Kind.CHALLENGE:
    case Kind.ASSIGN:
    case Kind.READY: {
      const { kind, ...words } = message;
      return headed(kind, new TextEncoder().encode(sorted(words)));
    }
    case Kind.PROOF:
    case Kind.WELCOME:
      return headed(message.kind, message.digest);
    case Kind.FETCH: {
      const [format, path] = [message.format, message.path].map((text) => new TextEncoder().encode(text)) as [Uint8Array, Uint8Array];
      const data = new Uint8Array(HEAD + 20 + format.length + path.length);
      const view = start(message.kind, data);
      view.setUint32(4, message.request, true);
      view.setBigUint64(8, BigInt(message.offset), true);
      view.setUint32(16, message.most, true);
      view.setUint16(20, format.length, true);
      data.set(format, 22);
      view.setUint16(22 + format.length, path.length, true);
      data.set(path, 24 + format.length);
      return data;
    }
    case Kind.PIECE: {
      const data = new Uint8Array(PIECE_HEAD + message.bytes.length);
      const view = start(message.kind, data);
      view.setUint32(4, message.request, true);
      view.setBigUint64(8, BigInt(message.offset), true);
      view.setBigUint64(16, BigInt(message.size), true);
      data.set(message.bytes, PIECE_HEAD);
      return data;
    }
    case Kind.OPEN:
    case Kind.FORGET: {
      const data = new Uint8Array(16);
      const view = start(message.kind, data);
      view.setUint32(4, message.kind === Kind.OPEN ? message.capacity : 0, true);
      view.setBigUint64(8, message.session, true);
      return data;
    }
    case Kind.FORWARD:
    case Kind.RESULT: {
      const data = new Uint8Array(HIDDEN_HEAD + message.values.length);
      const view = start(message.kind, data);
      view.setUint32(4, message.request, true);
      view.setBigUint64(8, message.session, true);
      view.setUint32(16, message.position, true);
      view.setUint32(20, message.tokens, true);
      view.setUint32(24, message.width, true);
      view.setUint8(28, message.half ? 1 : 0);
      data.set(message.values, HIDDEN_HEAD);
      return data;
    }
    case Kind.PING:
    case Kind.PONG: {
      const data = new Uint8Array(8);
      start(message.kind, data).setUint32(4, message.number, true);
      return data;
    }
    case Kind.ERROR: {
      const reason = new TextEncoder().encode(message.reason).subarray(0, MOST_REASON);
      const data = new Uint8Array(20 + reason.length);
      const view = start(message.kind, data);
      view.setUint32(4, message.request, true);
      view.setBigUint64(8, message.session, true);
      view.setUint16(16, message.code, true);
      view.setUint16(18, reason.length, true);
      data.set(reason, 20);
      return data;
    }
  }
}

/** The message of these bytes. ProtocolError when they are none, or their lengths do not agree. */
export function decode(buffer: ArrayBuffer): Message {
  const data = new Uint8Array(buffer);
  const view = new DataView(buffer);
  if (data.length < HEAD || data[0] !== 0x53 || data[1] !== 0x54) throw new ProtocolError("what came is no message of this protocol");
  if (data[2] !== VERSION) throw new ProtocolError(`the cluster speaks version ${data[2]} of the protocol of tablets, this page ${VERSION}`, Code.VERSION);
  const kind = data[3] as Message["kind"];
  const exactly = (length: number) => check(data.length === length, kind, `${data.length} bytes, not ${length}`);
  const atLeast = (length: number) => check(data.length >= length, kind, `${data.length} bytes, less than ${length}`);
  switch (kind) {
    case Kind.HELLO:
    case Kind.CHALLENGE:
      return { kind, ...greeting(json(kind, data)) };
    case Kind.ASSIGN:
      return { kind, ...assign(json(kind, data)) };
    case Kind.READY:
      return { kind, ...words<Ready>(kind, json(kind, data), ["device", "format", "hash", "layers"]) };
    case Kind.PROOF:
    case Kind.WELCOME:
      exactly(HEAD + PROOF_BYTES);
      return { kind, digest: data.slice(HEAD) };
    case Kind.FETCH: {
      atLeast(24);
      const format = view.getUint16(20, true);
      atLeast(24 + format);
      exactly(24 + format + view.getUint16(22 + format, true));
      return {
        kind,
        request: view.getUint32(4, true),
        offset: whole(kind, view.getBigUint64(8, true)),
        most: view.getUint32(16, true),
        format: text(kind, data.subarray(22, 22 + format)),
        path: text(kind, data.subarray(24 + format)),
      };
    }
    case Kind.PIECE:
      atLeast(PIECE_HEAD);
      return {
        kind,
        request: view.getUint32(4, true),
        offset: whole(kind, view.getBigUint64(8, true)),
        size: whole(kind, view.getBigUint64(16, true)),
        bytes: data.slice(PIECE_HEAD),
      };
    case Kind.OPEN:
      exactly(16);
      return { kind, capacity: view.getUint32(4, true), session: view.getBigUint64(8, true) };
    case Kind.FORGET:
      exactly(16);
      check(view.getUint32(4, true) === 0, kind, "its reserved bytes are not zero");
      return { kind, session: view.getBigUint64(8, true) };
    case Kind.FORWARD:
    case Kind.RESULT:
      return { kind, ...hidden(kind, data, view) };
    case Kind.PING:
    case Kind.PONG:
      exactly(8);
      return { kind, number: view.getUint32(4, true) };
    case Kind.ERROR: {
      atLeast(20);
      exactly(20 + view.getUint16(18, true));
      const code = view.getUint16(16, true);
      check(CODES.has(code), kind, `code ${code}`);
      const reason = new TextDecoder().decode(data.subarray(20));
      return { kind, request: view.getUint32(4, true), session: view.getBigUint64(8, true), code, reason };
    }
    default:
      throw new ProtocolError(`a message of kind ${String(kind)}, which this page does not know`);
  }
}

function hidden(kind: number, data: Uint8Array, view: DataView): Hidden {
  check(data.length > HIDDEN_HEAD, kind, `${data.length} bytes`);
  const [tokens, width, number] = [view.getUint32(20, true), view.getUint32(24, true), view.getUint8(28)];
  check(number <= 1 && data[29] === 0 && data[30] === 0 && data[31] === 0, kind, "no such numbers");
  check(tokens > 0 && width > 0 && tokens * width * (number === 1 ? 2 : 4) === data.length - HIDDEN_HEAD, kind, `no ${tokens} x ${width}`);
  return {
    request: view.getUint32(4, true),
    session: view.getBigUint64(8, true),
    position: view.getUint32(16, true),
    tokens,
    width,
    half: number === 1,
    values: data.subarray(HIDDEN_HEAD),
  };
}

function check(good: boolean, kind: number, what: string): void {
  if (!good) throw new ProtocolError(`a ${KINDS.get(kind) ?? kind} that cannot be read: ${what}`);
}

function headed(kind: number, rest: Uint8Array): Uint8Array<ArrayBuffer> {
  const data = new Uint8Array(HEAD + rest.length);
  start(kind, data);
  data.set(rest, HEAD);
  return data;
}

function start(kind: number, data: Uint8Array): DataView {
  data.set([0x53, 0x54, VERSION, kind]);
  return new DataView(data.buffer);
}

const sorted = (value: object): string =>
  JSON.stringify(value, (_, one: unknown) =>
    one !== null && typeof one === "object" ? Object.fromEntries(Object.entries(one).sort(([a], [b]) => (a < b ? -1 : 1))) : one,
  );

function text(kind: number, data: Uint8Array): string {
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(data);
  } catch {
    throw new ProtocolError(`a ${KINDS.get(kind)} whose text is no UTF-8`);
  }
}

function whole(kind: number, value: bigint): number {
  check(value <= BigInt(Number.MAX_SAFE_INTEGER), kind, `the number ${value}`);
  return Number(value);
}

function json(kind: number, data: Uint8Array): Record<string, unknown> {
  check(data.length <= MOST_SMALL, kind, `${data.length} bytes`);
  let value: unknown;
  try {
    value = JSON.parse(text(kind, data.subarray(HEAD)));
  } catch (error) {
    if (error instanceof ProtocolError) throw error;
    throw new ProtocolError(`a ${KINDS.get(kind)} that is no JSON`);
  }
  check(value !== null && typeof value === "object" && !Array.isArray(value), kind, "no object");
  return value as Record<string, unknown>;
}

/** An object of exactly these keys, all of them short texts. */
function words<T>(kind: number, value: Record<string, unknown>, keys: (keyof T & string)[]): T {
  check(Object.keys(value).sort().join() === keys.join(), kind, `the keys ${Object.keys(value).join()}`);
  check(keys.every((key) => short(value[key])), kind, "a value that is no short text");
  return value as T;
}

const short = (value: unknown): value is string => typeof value === "string" && value.length <= 200;

function greeting(value: Record<string, unknown>): Greeting {
  const found = words<Greeting>(Kind.CHALLENGE, value, ["name", "nonce", "role", "run"]);
  check(/^[0-9a-f]{64}$/.test(found.nonce) && (found.role === "cluster" || found.role === "tablet"), Kind.CHALLENGE, "nonce or role");
  return found;
}

function assign(value: Record<string, unknown>): Assign {
  const found = value as unknown as Assign;
  const numbers = [found.context, found.out_width, found.width];
  const packages: unknown = found.packages;
  const good =
    Object.keys(value).sort().join() === "context,dtype,last,layers,model,out_width,packages,width" &&
    numbers.every((one) => Number.isInteger(one) && one > 0 && one <= 1 << 24) &&
    typeof found.last === "boolean" &&
    (found.dtype === "fp32" || found.dtype === "fp16") &&
    short(found.model) &&
    short(found.layers) &&
    /^\d{1,5}:\d{1,5}$/.test(found.layers) &&
    packages !== null &&
    typeof packages === "object" &&
    Object.values(packages).every(short);
  check(good, Kind.ASSIGN, "another shape");
  return found;
}
