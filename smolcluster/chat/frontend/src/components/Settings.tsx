/** How the model is to write. What is left empty is as the server's configuration says, which the field shows. */
import { useEffect, useId, useState } from "react";
import type { Config, Strategy } from "../api/types";
import { FIELDS, isRead, parseField, STRATEGIES, type Field } from "../state/params";
import { NO_PARAMS, type Params } from "../state/types";
import { Panel } from "./Panel";

interface Props {
  params: Params;
  config: Config | null;
  onChange: (params: Params) => void;
  onClose: () => void;
}

export function Settings({ params, config, onChange, onClose }: Props) {
  const strategy = useId();
  // A new number empties fields that hold something which is no number.
  const [resets, setResets] = useState(0);
  const reset = () => {
    onChange(NO_PARAMS);
    setResets(resets + 1);
  };
  return (
    <Panel title="Settings" side="right" onClose={onClose}>
      <p className="quiet">They hold for what you send from now on, in every chat of this browser.</p>
      <div className="field">
        <label htmlFor={strategy}>Strategy</label>
        <select
          id={strategy}
          value={params.strategy ?? ""}
          onChange={(event) => onChange({ ...params, strategy: (event.target.value || null) as Strategy | null })}
          aria-describedby={`${strategy}-help`}
        >
          <option value="">The server's{config ? ` (${config.active_strategy})` : ""}</option>
          {Object.entries(STRATEGIES).map(([name, label]) => (
            <option key={name} value={name}>
              {label}
            </option>
          ))}
        </select>
        <p id={`${strategy}-help`} className="help">
          How the next token is chosen. Each uses its own settings and leaves the others out.
        </p>
      </div>
      {FIELDS.map((field) => (
        <NumberField
          key={`${field.name} ${resets}`}
          field={field}
          value={params[field.name]}
          usual={usual(field, params, config)}
          used={isRead(field.name, params.strategy)}
          onChange={(value) => onChange({ ...params, [field.name]: value })}
        />
      ))}
      <button type="button" onClick={reset}>
        As the server has them
      </button>
    </Panel>
  );
}

interface NumberProps {
  field: Field;
  value: number | null;
  usual: string;
  used: boolean;
  onChange: (value: number | null) => void;
}

function NumberField({ field, value, usual, used, onChange }: NumberProps) {
  const id = useId();
  const [text, setText] = useState(value === null ? "" : String(value));
  const parsed = parseField(field, text);
  useEffect(() => {
    if (parsed !== undefined && parsed !== value) onChange(parsed);
    // Only what is typed changes anything.
    // eslint-disable-next-line
  }, [text]);
  return (
    <div className="field">
      <label htmlFor={id}>{field.label}</label>
      <input
        id={id}
        inputMode={field.step === 1 ? "numeric" : "decimal"}
        value={text}
        placeholder={usual}
        disabled={!used}
        aria-invalid={parsed === undefined}
        aria-describedby={`${id}-help`}
        onChange={(event) => setText(event.target.value)}
      />
      <p id={`${id}-help`} className="help">
        {parsed === undefined ? (
          <strong>
            A {field.step === 1 ? "whole number" : "number"} from {field.min} to {field.max}, or nothing.{" "}
          </strong>
        ) : null}
        {used ? field.help : "This strategy does not use it."}
      </p>
    </div>
  );
}

/** What counts where the field is empty. */
function usual(field: Field, params: Params, config: Config | null): string {
  if (config === null || field.name === "seed") return field.name === "seed" ? "another each time" : "";
  if (field.name === "max_tokens") return String(config.limits.default_max_tokens);
  const of = config.strategies[params.strategy ?? config.active_strategy];
  return of === undefined ? "" : String(of[field.name]);
}
