/** A session as a file to keep. */
import type { Session } from "./types";

export function asMarkdown(session: Session): string {
  const parts = session.messages.map((message) => {
    const who = message.role === "user" ? "You" : (message.facts?.model ?? "Model");
    const note = message.role === "assistant" && message.trouble ? `\n\n*${message.trouble.message}*` : "";
    return `## ${who}\n\n${message.text}${note}\n`;
  });
  return [`# ${session.title}\n`, ...parts].join("\n");
}

export const asJson = (session: Session): string =>
  `${JSON.stringify(
    {
      title: session.title,
      changed: new Date(session.changed).toISOString(),
      messages: session.messages.map((message) => ({
        role: message.role,
        content: message.text,
        ...(message.role === "assistant" && message.facts ? { facts: message.facts } : {}),
      })),
    },
    null,
    2,
  )}\n`;

export function fileName(session: Session, ending: string): string {
  const words = session.title.toLowerCase().replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-+|-+$/g, "");
  return `${words.slice(0, 40) || "chat"}.${ending}`;
}

/** Have the browser save a text. */
export function download(name: string, text: string, type: string): void {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}
