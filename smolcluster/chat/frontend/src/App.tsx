/** The whole page: who is asked, what was said, and the panels around it. */
import { useEffect, useRef, useState, useSyncExternalStore } from "react";
import { About } from "./components/About";
import { Announcer } from "./components/Announcer";
import { Composer } from "./components/Composer";
import { Menu, Sliders, Theme as ThemeIcon, Phone } from "./components/icons";
import { KeyForm } from "./components/KeyForm";
import { Messages } from "./components/Messages";
import { Panel } from "./components/Panel";
import { Settings } from "./components/Settings";
import { Sidebar, type SidebarProps } from "./components/Sidebar";
import { Stages } from "./components/Stages";
import { Welcome } from "./components/Welcome";
import { loadParams, saveParams } from "./state/params";
import { isWriting } from "./state/sessions";
import type { Store } from "./state/store";
import { loadTheme, setTheme, THEMES } from "./state/theme";
import type { Params, Session, UserMessage } from "./state/types";
import { useServer } from "./state/useServer";

type Open = "chats" | "settings" | "about" | null;

export function App({ store, storage }: { store: Store; storage: Storage }) {
  const { sessions, seeking, unkept } = useSyncExternalStore(store.subscribe, store.snapshot);
  const server = useServer();
  const [current, setCurrent] = useState(() => sessions[0]?.id ?? store.create());
  const [params, setParams] = useState(() => loadParams(storage));
  const [open, setOpen] = useState<Open>(null);
  const [drafts, setDrafts] = useState<Record<string, string>>({});
  const [edited, setEdited] = useState<UserMessage | null>(null);
  const [deleted, setDeleted] = useState<Session | null>(null);
  const [first] = useState(() => sessions.every((one) => one.messages.length === 0));
  const [theme, chooseTheme] = useState(() => loadTheme(storage));
  const paramsNow = useRef(params);
  paramsNow.current = params;

  const session = sessions.find((one) => one.id === current);
  const answering = isWriting(session);
  const last = session?.messages.findLast((message) => message.role === "assistant");

  // Another tab may have deleted it.
  useEffect(() => {
    if (session === undefined) setCurrent(sessions[0]?.id ?? store.create());
  }, [session, sessions, store]);
  useEffect(() => {
    document.title = session === undefined || session.messages.length === 0 ? "smolcluster" : `${session.title} · smolcluster`;
  }, [session]);

  if (server.locked) {
    return (
      <KeyForm
        onEntered={() => {
          server.look();
          store.resume();
        }}
      >
        This page needs a key. Open the link that <code>ansible-playbook inference.yml</code> printed: it lets one
        browser in, once, and a cookie keeps it in. Another link comes from a browser that is in, or on the machine that
        the playbook ran on from <code>python -m smolcluster link {location.origin}</code>. A link, or the key itself, can
        be entered here too.
      </KeyForm>
    );
  }

  const choose = (id: string) => {
    setCurrent(id);
    setEdited(null);
    setOpen(null);
  };
  const draft = (text: string) => setDrafts((all) => ({ ...all, [current]: text }));
  const send = (text: string) => {
    if (edited) store.resend(current, edited.id, text, params);
    else store.send(current, text, params);
    setEdited(null);
    draft("");
  };
  const sidebar: SidebarProps = {
    sessions,
    current,
    onChoose: choose,
    onCreate: () => choose(store.create()),
    onRename: (id, title) => store.rename(id, title),
    onRemove: (id) => setDeleted(store.remove(id) ?? null),
  };
  const change = (changed: Params) => {
    setParams(changed);
    saveParams(storage, changed);
  };
  const nextTheme = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length]!;

  return (
    <div className="app">
      <a className="skip" href="#message">
        To the message
      </a>
      <nav className="side" aria-label="Chats">
        <Sidebar {...sidebar} />
      </nav>
      <main>
        <header className="top">
          <button type="button" className="icon narrow" aria-label="Chats" onClick={() => setOpen("chats")}>
            <Menu />
          </button>
          <h2 className="title">{session?.title ?? ""}</h2>
          <button
            type="button"
            className="icon"
            aria-label={`Colours: ${theme}. Change to ${nextTheme}`}
            title={`Colours: ${theme}`}
            onClick={() => {
              chooseTheme(nextTheme);
              setTheme(storage, nextTheme);
            }}
          >
            <ThemeIcon />
          </button>
          <button type="button" className="icon" aria-label="Phone and programs" title="Phone and programs" onClick={() => setOpen("about")}>
            <Phone />
          </button>
          <button type="button" className="icon" aria-label="Settings" title="Settings" onClick={() => setOpen("settings")}>
            <Sliders />
          </button>
        </header>
        <Stages server={server} />
        {unkept ? (
          <p className="notice" role="alert">
            This browser has no room for chats: what is said now is lost when the page is closed. Save it from the list of chats.
          </p>
        ) : null}
        {deleted ? (
          <p className="notice" role="status">
            “{deleted.title}” was deleted.{" "}
            <button
              type="button"
              className="small"
              onClick={() => {
                store.restore(deleted);
                choose(deleted.id);
                setDeleted(null);
              }}
            >
              Undo
            </button>{" "}
            <button type="button" className="small" onClick={() => setDeleted(null)}>
              Good
            </button>
          </p>
        ) : null}
        {session === undefined || session.messages.length === 0 ? (
          <Welcome config={server.config} first={first} onStart={send} />
        ) : (
          <Messages
            session={session}
            seeking={seeking.has(current)}
            onRetry={(message) => store.retry(current, message, paramsNow.current)}
            onEdit={(message) => {
              store.stop(current);
              setEdited(message);
              draft(message.text);
            }}
          />
        )}
        <Announcer message={last} />
        <Composer
          draft={drafts[current] ?? ""}
          onDraft={draft}
          writing={answering !== undefined}
          editing={edited !== null}
          onSend={send}
          onStop={() => store.stop(current)}
          onCancelEdit={() => {
            setEdited(null);
            draft("");
          }}
        />
      </main>
      {open === "chats" ? (
        <Panel title="Chats" side="left" onClose={() => setOpen(null)}>
          <Sidebar {...sidebar} />
        </Panel>
      ) : null}
      {open === "settings" ? (
        <Settings params={params} config={server.config} onChange={change} onClose={() => setOpen(null)} />
      ) : null}
      {open === "about" ? <About config={server.config} onClose={() => setOpen(null)} /> : null}
    </div>
  );
}
