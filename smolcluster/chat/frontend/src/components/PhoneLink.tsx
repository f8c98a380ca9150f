/** A link that lets one more device in, with its QR code. */
import { useEffect, useRef, useState } from "react";
import { ApiFailure, link } from "../api/http";
import type { Link } from "../api/types";
import { CopyButton } from "./CopyButton";

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
          <Qr svg={made.qr_svg} />
          <p className="link">
            {made.url} <CopyButton text={made.url} label="Copy link" />
          </p>
          <p className="quiet">Good for {Math.round(made.expires_s / 60)} minutes. Who has it can come in: show it to nobody else.</p>
        </>
      ) : null}
    </>
  );
}

/** The server's own drawing, as nodes and not as HTML. */
function Qr({ svg }: { svg: string }) {
  const place = useRef<HTMLDivElement>(null);
  useEffect(() => {
    const drawn = new DOMParser().parseFromString(svg, "text/html").querySelector("svg");
    if (drawn !== null) place.current?.replaceChildren(document.importNode(drawn, true));
  }, [svg]);
  return <div ref={place} className="qr" role="img" aria-label="QR code of the link" />;
}
