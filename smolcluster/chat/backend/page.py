"""The page at /: what is served and how to use it, in plain HTML."""

from __future__ import annotations

from html import escape

from smolcluster.infer.head import About, Health

_PAGE = """<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{title}</title></head>
<body>
<h1>{title}</h1>
{body}
</body>
</html>
"""


def page(about: About | None, health: Health, base: str) -> str:
    """`base` is how the browser reached us, http://host:port."""
    if about is None:
        state = f"<p>Not ready: {escape(health.state)}. {escape(health.reason)}</p>"
        return _PAGE.format(title="smolcluster", body=f'{state}\n<p><a href="/health">/health</a> tells more.</p>')
    stages = ", ".join(f"{escape(stage.node)} {stage.start}:{stage.stop}" for stage in health.stages)
    curl = (
        f"curl {base}/v1/chat/completions -H 'Content-Type: application/json' \\\n"
        f'  -d \'{{"model": "{about.name}", "messages": [{{"role": "user", "content": "Hello"}}]}}\''
    )
    python = f'OpenAI(base_url="{base}/v1", api_key="the key, or anything where none is needed")'
    links = "".join(
        f'<li><a href="{path}">{path}</a> {what}</li>\n'
        for path, what in (
            ("/health", "how it does"),
            ("/config", "the model's configuration"),
            ("/metrics", "for Prometheus"),
            ("/openapi.json", "every endpoint"),
        )
    )
    body = f"""<p>{about.params / 1e6:,.0f} million parameters, {escape(about.precision)}, a context of
{about.context:,} tokens; layers on {stages or "this machine"}.
{escape(about.source)}, licence {escape(about.licence)}.</p>
<p>With the official <code>openai</code> client:</p>
<pre>{escape(python)}</pre>
<p>Or:</p>
<pre>{escape(curl)}</pre>
<ul>
{links}</ul>"""
    return _PAGE.format(title=f"smolcluster: {escape(about.name)}", body=body)
