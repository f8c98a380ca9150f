/** Beyond this page: the same on a phone, and from programs. */
import type { Config } from "../api/types";
import { CodeBlock } from "./CodeBlock";
import { Panel } from "./Panel";
import { PhoneLink } from "./PhoneLink";

export function About({ config, onClose }: { config: Config | null; onClose: () => void }) {
  const base = location.origin;
  const model = config?.model ?? "NAME";
  return (
    <Panel title="Phone and programs" side="right" onClose={onClose}>
      <h3>On the phone</h3>
      <PhoneLink />
      <h3>From programs</h3>
      <p>The official openai clients work; the key is the one of this page, or anything where none is needed.</p>
      <CodeBlock language="python" text={`OpenAI(base_url="${base}/v1", api_key="KEY")`} />
      <CodeBlock
        language="shell"
        text={`curl ${base}/v1/chat/completions \\\n  -H 'Content-Type: application/json' \\\n  -d '{"model": "${model}", "messages": [{"role": "user", "content": "Hello"}]}'`}
      />
      <ul>
        <li>
          <a href="/health">/health</a> how it does
        </li>
        <li>
          <a href="/config">/config</a> the model's configuration
        </li>
        <li>
          <a href="/metrics">/metrics</a> for Prometheus
        </li>
        <li>
          <a href="/openapi.json">/openapi.json</a> every endpoint
        </li>
      </ul>
      <p className="quiet">
        This page has code of others: <a href="/licenses.txt">their licences</a>.
      </p>
    </Panel>
  );
}
