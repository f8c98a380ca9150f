/** The greeting, as the one who dials. */
import { DIALLER, LISTENER, nonce, proof, same } from "./greeting";
import { Ended, type Heard, type Link } from "./link";
import { Code, encode, Kind, nameOf, type Assign, type Message } from "./messages";

export interface Me {
  run: string;
  name: string;
  key: Uint8Array;
}

/** The cluster's name, when both have proven themselves. Ended, with REFUSED where it is not for us. */
export async function greet(link: Link, me: Me): Promise<string> {
  const hello = encode({ kind: Kind.HELLO, name: me.name, nonce: nonce(), role: "tablet", run: me.run });
  link.sendBytes(hello);
  const { message, data } = await link.next();
  const challenge = due(link, message, Kind.CHALLENGE);
  if (challenge.role !== "cluster" || challenge.run !== me.run) throw new Ended("This address belongs to another run of the cluster.", true, Code.REFUSED);
  link.send({ kind: Kind.PROOF, digest: proof(me.key, DIALLER, hello, data) });
  const welcome = due(link, (await link.next()).message, Kind.WELCOME);
  if (!same(welcome.digest, proof(me.key, LISTENER, hello, data))) throw new Ended("Whoever answers at this address does not know the key.", true, Code.REFUSED);
  return challenge.name;
}

export async function assignment(link: Link): Promise<Assign> {
  const heard: Heard = await link.next();
  return due(link, heard.message, Kind.ASSIGN);
}

function due<K extends Message["kind"]>(link: Link, message: Message, kind: K): Extract<Message, { kind: K }> {
  if (message.kind !== (kind as number)) {
    const reason = `${nameOf(message)} came where another message was due`;
    link.refuse(Code.BAD_MESSAGE, reason);
    throw new Ended(`The cluster sent something wrong: ${reason}.`, true);
  }
  return message as Extract<Message, { kind: K }>;
}
