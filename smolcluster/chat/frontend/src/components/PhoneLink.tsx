/** A link that lets one more device in, with its QR code. */
import { useState } from "react";
import { ApiFailure, link } from "../api/http";
import type { Link } from "../api/types";
import { CopyButton } from "./CopyButton";
import { Qr } from "./Qr";

export function PhoneLink() {
  const [made, setMade] = useState<Link | null>(null);
  const [trouble, setTrouble] = useState("");
  const make = async () => {
    try {
      setMade(await link());
      setTrouble("");
    } catch (error) {
      setTrouble(error instanceof ApiFailure ? error.message : String(error));
    }
  };
  return (
    <>
      <p>A link lets one more device of the cluster's network in, once.</p>
      <button type="button" onClick={() => void make()}>
        {made ? "Make another link" : "Make a link"}
      </button>
      <p role="alert">{trouble}</p>
      {made ? (
        <>
          <Qr svg={made.qr_svg} label="QR code of the link" />
          <p className="link">
            {made.url} <CopyButton text={made.url} label="Copy link" />
          </p>
          <p className="quiet">Good for {Math.round(made.expires_s / 60)} minutes. Who has it can come in: show it to nobody else.</p>
        </>
      ) : null}
    </>
  );
}
