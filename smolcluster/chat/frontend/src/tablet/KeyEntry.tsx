/** Where no key came with the address, or a wrong one. */
import { useState } from "react";
import { unhex } from "./greeting";

/** The key in what a person has put in: itself, or a whole address. "" if there is none. */
export function keyIn(text: string): string {
  const key = text.includes("#") ? (new URLSearchParams(text.slice(text.indexOf("#") + 1)).get("key") ?? "") : text;
  return unhex(key.trim()) === null ? "" : key.trim();
}

export function KeyEntry({ enter }: { enter: (key: string) => void }) {
  const [text, setText] = useState("");
  const [wrong, setWrong] = useState(false);
  return (
    <form
      onSubmit={(event) => {
        event.preventDefault();
        const key = keyIn(text);
        setWrong(key === "");
        if (key !== "") enter(key);
      }}
    >
      <label htmlFor="key">Address or key</label>
      <input
        id="key"
        type="password"
        autoComplete="off"
        value={text}
        aria-invalid={wrong}
        aria-describedby="wrong"
        onChange={(event) => setText(event.target.value)}
      />
      <p id="wrong" role="alert">
        {wrong && "That is no key: it has 64 letters and digits. Copy the whole address."}
      </p>
      <button type="submit" className="strong" disabled={text.trim() === ""}>
        Connect
      </button>
    </form>
  );
}
