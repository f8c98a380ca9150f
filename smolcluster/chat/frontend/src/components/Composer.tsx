/** Where one writes. Enter sends, Shift+Enter makes a line; on a phone's keyboard Enter makes a line. */
import { useEffect, useRef, type KeyboardEvent } from "react";
import { Send, Stop } from "./icons";

interface Props {
  draft: string;
  onDraft: (text: string) => void;
  writing: boolean;
  editing: boolean;
  onSend: (text: string) => void;
  onStop: () => void;
  onCancelEdit: () => void;
}

export function Composer({ draft, onDraft, writing, editing, onSend, onStop, onCancelEdit }: Props) {
  const area = useRef<HTMLTextAreaElement>(null);
  useEffect(() => {
    if (editing) area.current?.focus();
  }, [editing]);
  useEffect(() => {
    const box = area.current;
    if (box === null) return;
    box.style.height = "auto";
    box.style.height = `${box.scrollHeight}px`;
  }, [draft]);

  const send = () => {
    if (draft.trim() !== "" && !writing) onSend(draft);
    area.current?.focus();
  };
  const onKey = (event: KeyboardEvent) => {
    if (event.key === "Escape" && editing) onCancelEdit();
    // While a word is put together (Chinese, Japanese), Enter is part of that.
    const finger = matchMedia("(pointer: coarse)").matches;
    if (event.key !== "Enter" || event.shiftKey || event.nativeEvent.isComposing || finger) return;
    event.preventDefault();
    send();
  };
  return (
    <form
      className="composer"
      onSubmit={(event) => {
        event.preventDefault();
        send();
      }}
    >
      {editing ? (
        <p className="editing">
          Sending it again replaces the message and what came after it.{" "}
          <button type="button" className="small" onClick={onCancelEdit}>
            Leave it as it was
          </button>
        </p>
      ) : null}
      <div className="box">
        <label htmlFor="message" className="offscreen">
          Message
        </label>
        <textarea
          id="message"
          ref={area}
          rows={1}
          value={draft}
          placeholder="Write a message"
          onChange={(event) => onDraft(event.target.value)}
          onKeyDown={onKey}
        />
        {writing ? (
          <button type="button" className="icon strong" aria-label="Stop" onClick={onStop}>
            <Stop />
          </button>
        ) : (
          <button type="submit" className="icon strong" aria-label="Send" disabled={draft.trim() === ""}>
            <Send />
          </button>
        )}
      </div>
    </form>
  );
}
