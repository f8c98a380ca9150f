/** How sessions change: a pure function from what was and what happened to what is. */
import type { Position } from "../stream/answer";
import type { AssistantMessage, Facts, Message, Session, Trouble } from "./types";

export type Action =
  | { type: "create"; session: string; now: number }
  | { type: "put"; session: Session }
  | { type: "rename"; session: string; title: string }
  | { type: "remove"; session: string }
  | { type: "send"; session: string; text: string; user: string; assistant: string; now: number }
  /** Without what came from this message on: it is asked anew, perhaps in other words. */
  | { type: "cut"; session: string; message: string }
  | { type: "append"; session: string; message: string; text: string; at: Position }
  | { type: "end"; session: string; message: string; facts: Facts; text: string }
  | { type: "stop"; session: string; message: string }
  | { type: "fail"; session: string; message: string; trouble: Trouble };

export const UNTITLED = "New chat";
const LONGEST_TITLE = 48;

export function reduce(sessions: readonly Session[], action: Action): readonly Session[] {
  switch (action.type) {
    case "create":
      return [{ id: action.session, title: UNTITLED, named: false, changed: action.now, messages: [] }, ...sessions];
    case "put":
      return [action.session, ...sessions.filter((one) => one.id !== action.session.id)].sort(newestFirst);
    case "remove":
      return sessions.filter((one) => one.id !== action.session);
    case "rename":
      return change(sessions, action.session, (one) => {
        const title = action.title.trim();
        return title === "" ? one : { ...one, title, named: true };
      });
    case "send": {
      const messages: Message[] = [
        { id: action.user, role: "user", text: action.text },
        { id: action.assistant, role: "assistant", text: "", state: "writing" },
      ];
      return change(sessions, action.session, (one) => ({
        ...one,
        title: one.named || one.messages.length > 0 ? one.title : titleOf(action.text),
        changed: action.now,
        messages: [...one.messages, ...messages],
      })).toSorted(newestFirst);
    }
    case "cut":
      return change(sessions, action.session, (one) => {
        const index = one.messages.findIndex((message) => message.id === action.message);
        return index < 0 ? one : { ...one, messages: one.messages.slice(0, index) };
      });
    case "append":
      return written(sessions, action, (message) => ({ ...message, text: message.text + action.text, at: action.at }));
    case "end":
      return written(sessions, action, ({ at: _, ...message }) => ({
        ...message,
        // The whole text comes at the end too: it makes good whatever was missed.
        text: action.text.length >= message.text.length ? action.text : message.text,
        state: action.facts.finish === "cancelled" ? "stopped" : "done",
        facts: action.facts,
      }));
    case "stop":
      return written(sessions, action, ({ at: _, ...message }) => ({ ...message, state: "stopped" }));
    case "fail":
      return written(sessions, action, ({ at: _, ...message }) => ({
        ...message,
        state: "failed",
        trouble: action.trouble,
      }));
  }
}

export const newestFirst = (one: Session, other: Session) => other.changed - one.changed;

/** The first line of a message, not too long. */
export function titleOf(text: string): string {
  const line = text.trim().split("\n", 1)[0]!.trim();
  const letters = Array.from(line);
  return letters.length <= LONGEST_TITLE ? line || UNTITLED : `${letters.slice(0, LONGEST_TITLE - 1).join("").trimEnd()}…`;
}

/** What the model is to see. A question whose answer is empty is left out with it: many chat templates want the two to
 * take turns.
 */
export const conversation = (messages: readonly Message[]) =>
  messages
    .filter((message, index) => {
      const answer = message.role === "user" ? messages[index + 1] : message;
      return answer === undefined || (message.role === "user" && isNew(answer)) || answer.text.trim() !== "";
    })
    .filter((message) => !isNew(message))
    .map((message) => ({ role: message.role, content: message.text }));

const isNew = (message: Message) => message.role === "assistant" && message.state === "writing";

export const isWriting = (session: Session | undefined): AssistantMessage | undefined =>
  session?.messages.find((message): message is AssistantMessage => message.role === "assistant" && message.state === "writing");

function change(sessions: readonly Session[], id: string, to: (session: Session) => Session): readonly Session[] {
  return sessions.map((session) => (session.id === id ? to(session) : session));
}

/** Change the message that is being written; one that has ended stays as it is. */
function written(
  sessions: readonly Session[],
  which: { session: string; message: string },
  to: (message: AssistantMessage) => AssistantMessage,
): readonly Session[] {
  return change(sessions, which.session, (session) => ({
    ...session,
    messages: session.messages.map((message) =>
      message.id === which.message && message.role === "assistant" && message.state === "writing" ? to(message) : message,
    ),
  }));
}
