/** What was said, and what is being said. */
import { memo, useEffect, useLayoutEffect, useRef } from "react";
import { Markdown } from "../markdown/Markdown";
import { brief } from "../state/words";
import type { AssistantMessage, Message, Session, UserMessage } from "../state/types";
import { CopyButton } from "./CopyButton";

interface Props {
  session: Session;
  seeking: boolean;
  onRetry: (message: string) => void;
  onEdit: (message: UserMessage) => void;
}

// Who has scrolled up by more than that reads, and is left where he is.
const NEAR_PX = 60;

export function Messages({ session, seeking, onRetry, onEdit }: Props) {
  const list = useRef<HTMLDivElement>(null);
  const following = useRef(true);
  const last = session.messages.at(-1);

  useLayoutEffect(() => {
    following.current = true;
  }, [session.id, session.messages.length]);
  useLayoutEffect(() => {
    if (following.current && list.current) list.current.scrollTop = list.current.scrollHeight;
  }, [session, seeking]);
  useEffect(() => {
    const box = list.current;
    if (box === null) return;
    const scrolled = () => {
      following.current = box.scrollHeight - box.scrollTop - box.clientHeight < NEAR_PX;
    };
    box.addEventListener("scroll", scrolled, { passive: true });
    return () => box.removeEventListener("scroll", scrolled);
  }, []);

  return (
    <div className="messages" ref={list} tabIndex={0} role="region" aria-label="Conversation">
      {session.messages.map((message) => (
        <OneMessage key={message.id} message={message} seeking={seeking && message === last} onRetry={onRetry} onEdit={onEdit} />
      ))}
    </div>
  );
}

interface OneProps {
  message: Message;
  seeking: boolean;
  onRetry: (message: string) => void;
  onEdit: (message: UserMessage) => void;
}

/** Only the message that grows is drawn again. */
const OneMessage = memo(function OneMessage({ message, seeking, onRetry, onEdit }: OneProps) {
  if (message.role === "user") {
    return (
      <article className="message user" aria-label="You">
        <div className="text">{message.text}</div>
        <div className="tools">
          <button type="button" className="small" onClick={() => onEdit(message)}>
            Edit
          </button>
          <CopyButton text={message.text} />
        </div>
      </article>
    );
  }
  return (
    <article className="message assistant" aria-label="Answer" aria-busy={message.state === "writing"}>
      <div className="text">
        <Markdown text={message.text} />
        {message.state === "writing" ? (
          <span className="writing">{seeking ? "The connection was lost. Looking for it …" : <span className="cursor" />}</span>
        ) : null}
      </div>
      {message.trouble ? (
        <div className="trouble" role="alert">
          <strong>{message.trouble.message}</strong> {message.trouble.advice}
        </div>
      ) : null}
      {message.state === "writing" ? null : (
        <div className="tools">
          <button type="button" className="small" onClick={() => onRetry(message.id)}>
            Retry
          </button>
          {message.text === "" ? null : <CopyButton text={message.text} />}
          <span className="facts">{facts(message)}</span>
        </div>
      )}
    </article>
  );
});

export function facts({ state, facts }: AssistantMessage): string {
  const end = state === "stopped" ? "stopped" : facts?.finish === "length" ? "cut at the longest answer" : "";
  if (facts === undefined) return end;
  const speed = facts.tokensPerSecond > 0 ? `${brief(facts.tokensPerSecond)} tokens/s` : "";
  const first = facts.firstToken === null ? "" : `first after ${facts.firstToken.toFixed(2)} s`;
  const tokens = `${facts.tokens} ${facts.tokens === 1 ? "token" : "tokens"}`;
  return [tokens, speed, first, end].filter((part) => part !== "").join(" · ");
}
