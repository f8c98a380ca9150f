/** The chats of this browser: choose, name, delete, save. */
import { useEffect, useRef, useState } from "react";
import { asJson, asMarkdown, download, fileName } from "../state/export";
import { isWriting } from "../state/sessions";
import type { Session } from "../state/types";
import { More, Plus } from "./icons";

export interface SidebarProps {
  sessions: readonly Session[];
  current: string;
  onChoose: (id: string) => void;
  onCreate: () => void;
  onRename: (id: string, title: string) => void;
  onRemove: (id: string) => void;
}

export function Sidebar({ sessions, current, onChoose, onCreate, onRename, onRemove }: SidebarProps) {
  const [renaming, setRenaming] = useState<string | null>(null);
  return (
    <div className="chats">
      <button type="button" className="new" onClick={onCreate}>
        <Plus /> New chat
      </button>
      <ul aria-label="Chats">
        {sessions.map((session) => (
          <li key={session.id} className={session.id === current ? "chat current" : "chat"}>
            {renaming === session.id ? (
              <Rename
                title={session.title}
                onEnd={(title) => {
                  if (title !== null) onRename(session.id, title);
                  setRenaming(null);
                }}
              />
            ) : (
              <>
                <button
                  type="button"
                  className="choose"
                  aria-current={session.id === current ? "true" : undefined}
                  onClick={() => onChoose(session.id)}
                >
                  {session.title}
                  {isWriting(session) ? <span className="dot" role="img" aria-label="being answered" /> : null}
                </button>
                <Actions session={session} onRename={() => setRenaming(session.id)} onRemove={() => onRemove(session.id)} />
              </>
            )}
          </li>
        ))}
      </ul>
    </div>
  );
}

function Rename({ title, onEnd }: { title: string; onEnd: (title: string | null) => void }) {
  const input = useRef<HTMLInputElement>(null);
  useEffect(() => input.current?.select(), []);
  return (
    <form
      onSubmit={(event) => {
        event.preventDefault();
        onEnd(input.current?.value ?? null);
      }}
    >
      <input
        ref={input}
        aria-label="Name of the chat"
        defaultValue={title}
        maxLength={200}
        onBlur={(event) => onEnd(event.target.value)}
        onKeyDown={(event) => {
          if (event.key !== "Escape") return;
          // The panel around it stays.
          event.preventDefault();
          event.stopPropagation();
          onEnd(null);
        }}
      />
    </form>
  );
}

function Actions({ session, onRename, onRemove }: { session: Session; onRename: () => void; onRemove: () => void }) {
  const menu = useRef<HTMLDetailsElement>(null);
  const then = (act: () => void) => () => {
    if (menu.current) menu.current.open = false;
    act();
  };
  useEffect(() => {
    const away = ({ target }: Event) => {
      if (menu.current && !menu.current.contains(target as Node)) menu.current.open = false;
    };
    document.addEventListener("pointerdown", away);
    return () => document.removeEventListener("pointerdown", away);
  }, []);
  return (
    <details
      ref={menu}
      className="actions"
      onKeyDown={(event) => {
        if (event.key !== "Escape" || !menu.current?.open) return;
        event.preventDefault();
        event.stopPropagation();
        menu.current.open = false;
        menu.current.querySelector("summary")?.focus();
      }}
    >
      <summary aria-label={`More: ${session.title}`}>
        <More />
      </summary>
      <div className="menu">
        <button type="button" onClick={then(onRename)}>
          Rename
        </button>
        <button type="button" onClick={then(() => download(fileName(session, "md"), asMarkdown(session), "text/markdown"))}>
          Save as Markdown
        </button>
        <button type="button" onClick={then(() => download(fileName(session, "json"), asJson(session), "application/json"))}>
          Save as JSON
        </button>
        <button type="button" className="bad" onClick={then(onRemove)}>
          Delete
        </button>
      </div>
    </details>
  );
}
