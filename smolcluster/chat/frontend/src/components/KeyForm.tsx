/** Where a key is needed and was not shown. */
import { useState, type ReactNode } from "react";
import { enter } from "../api/http";

interface Props {
  onEntered: () => void;
  /** Where a link comes from. */
  children: ReactNode;
}

export function KeyForm({ onEntered, children }: Props) {
  const [key, setKey] = useState("");
  const [wrong, setWrong] = useState("");
  const [busy, setBusy] = useState(false);
  const send = async () => {
    setBusy(true);
    try {
      if (await enter(key.trim())) onEntered();
      else setWrong("That is not the key, or a link that was used already. Copy the whole of it, with nothing before or after.");
    } catch (error) {
      setWrong(`${(error as Error).message} Try again when this device is in the cluster's network.`);
    }
    setBusy(false);
  };
  return (
    <main className="locked">
      <h1>smolcluster</h1>
      <p>{children}</p>
      <form
        onSubmit={(event) => {
          event.preventDefault();
          if (key.trim() !== "" && !busy) void send();
        }}
      >
        <label htmlFor="key">Key or link</label>
        <input
          id="key"
          type="password"
          autoComplete="current-password"
          autoFocus
          value={key}
          aria-invalid={wrong !== ""}
          aria-describedby="wrong"
          onChange={(event) => setKey(event.target.value)}
        />
        <button type="submit" className="strong" disabled={busy || key.trim() === ""}>
          Enter
        </button>
        <p id="wrong" role="alert">
          {wrong}
        </p>
      </form>
    </main>
  );
}
