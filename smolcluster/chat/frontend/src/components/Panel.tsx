/** A panel over the page. The browser's own dialog keeps the focus inside, closes on Escape and gives the focus back. */
import { useEffect, useId, useRef, type ReactNode } from "react";
import { Close } from "./icons";

interface Props {
  title: string;
  side: "left" | "right" | "middle";
  onClose: () => void;
  children: ReactNode;
}

export function Panel({ title, side, onClose, children }: Props) {
  const dialog = useRef<HTMLDialogElement>(null);
  const heading = useId();
  useEffect(() => {
    const shown = dialog.current;
    shown?.showModal();
    return () => shown?.close();
  }, []);
  return (
    <dialog
      ref={dialog}
      className={`panel ${side}`}
      aria-labelledby={heading}
      onCancel={onClose}
      onClick={(event) => event.target === dialog.current && onClose()}
    >
      <div className="inside">
        <header>
          <h2 id={heading}>{title}</h2>
          <button type="button" className="icon" aria-label="Close" onClick={onClose}>
            <Close />
          </button>
        </header>
        {children}
      </div>
    </dialog>
  );
}
