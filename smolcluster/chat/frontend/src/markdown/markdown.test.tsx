import { renderToStaticMarkup } from "react-dom/server";
import { describe, expect, it } from "vitest";
import { blocks } from "./blocks";
import { Markdown } from "./Markdown";

const html = (text: string) => renderToStaticMarkup(<Markdown text={text} />);

describe("Markdown", () => {
  it.each([
    ["a *b* **c** `d` ~~e~~", "<p>a <em>b</em> <strong>c</strong> <code>d</code> <s>e</s></p>"],
    ["**a *b* c**", "<p><strong>a <em>b</em> c</strong></p>"],
    ["snake_case_name 2 * 3 * 4", "<p>snake_case_name 2 * 3 * 4</p>"],
    ["\\*not\\* `a *b*`", "<p>*not* <code>a *b*</code></p>"],
    ["``a ` b``", "<p><code>a ` b</code></p>"],
    ["# One\ntext", "<h3>One</h3><p>text</p>"],
    ["- a\n- b\n\nafter", "<ul><li>a</li><li>b</li></ul><p>after</p>"],
    ["3. a\n4. b", '<ol start="3"><li>a</li><li>b</li></ol>'],
    ["- a\n  - b\n- c", "<ul><li><p>a</p><ul><li>b</li></ul></li><li>c</li></ul>"],
    ["> a\n> b", "<blockquote><p>a\nb</p></blockquote>"],
    ["---", "<hr/>"],
    ["a  \nb", "<p>a<br/>b</p>"],
    ["**open", "<p>**open</p>"],
  ])("%j", (text, wanted) => expect(html(text)).toBe(wanted));

  it("has tables", () => {
    expect(blocks("| a | b |\n|:--|--:|\n| 1 | 2\\|3 |\n| 4 |")).toEqual([
      {
        kind: "table",
        source: "| a | b |\n|:--|--:|\n| 1 | 2\\|3 |\n| 4 |",
        align: ["left", "right"],
        rows: [["a", "b"], ["1", "2|3"], ["4", ""]],
      },
    ]);
  });

  it("has code, also while it is still being written", () => {
    expect(blocks("```python\nx = '**'\n\n# no heading\n```\nafter")).toMatchObject([
      { kind: "code", language: "python", text: "x = '**'\n\n# no heading", open: false },
      { kind: "paragraph", text: "after" },
    ]);
    expect(blocks("```\nx")).toMatchObject([{ kind: "code", language: "", text: "x", open: true }]);
    expect(blocks("````\n```\n````")).toMatchObject([{ kind: "code", text: "```", open: false }]);
  });

  it.each([
    '<img src=x onerror="alert(1)">',
    "<script>alert(1)</script>",
    "[x](javascript:alert(1))",
    "[x](data:text/html,x)",
    "[x]( JavaScript:alert(1))",
    "![x](http://example.org/x.png)",
    '[x](https://e.org/"onmouseover="alert(1))',
  ])("lets nothing through that acts: %j", (text) => {
    const made = new DOMParser().parseFromString(html(text), "text/html").body;
    expect(made.querySelectorAll("script, img, iframe").length).toBe(0);
    for (const one of made.querySelectorAll("*")) {
      expect([...one.attributes].filter(({ name }) => name.startsWith("on"))).toEqual([]);
      expect(one.getAttribute("href") ?? "https://").toMatch(/^https?:\/\//);
    }
    expect(made.textContent?.length).toBeGreaterThan(0);
  });

  it("links to the web, in a tab that knows nothing of this one", () => {
    expect(html("see https://example.org/a_b(c). [x](https://e.org 't')")).toContain('<a href="https://example.org/a_b(c');
    expect(html("[**x**](https://e.org)")).toBe(
      '<p><a href="https://e.org" target="_blank" rel="noopener noreferrer nofollow"><strong>x</strong></a></p>',
    );
  });

  it("keeps every block but the last while text is added: a frame draws only what grows", () => {
    const text = "# A\n\npara **b**\n\n- one\n- two\n\n```js\nlet x\n```\n\nlast ";
    const before = blocks(text).slice(0, -1);
    expect(blocks(`${text}words\n\nmore`).slice(0, before.length)).toEqual(before);
  });

  // Patterns that try every way would take hours.
  it.each(["*", "**", "_", "`", "[", "~~", "<", "![]("])("ends soon with %j that never closes", (sign) => {
    expect(html(`x${sign.repeat(4000)}`).length).toBeGreaterThan(4000);
    expect(html(`${sign}a `.repeat(2000)).length).toBeGreaterThan(4000);
  });
});
